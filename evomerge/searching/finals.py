"""The end of a search: the winner, or a front, is chosen on the validation documents, and measured
on the test documents."""

from collections.abc import Sequence

from evomerge.errors import SearchError
from evomerge.run.history import Candidate
from evomerge.run.journal import Event
from evomerge.run.ranking import to_test
from evomerge.scores import Failure, Scores
from evomerge.searching.session import Session


def is_finished(session: Session) -> bool:
    """Whether there is a winner, and all that is to be tested has outcomes on test documents."""
    return session.history.winner is not None and not untested(session)


def choose_winner(session: Session) -> Candidate:
    """Return the best of the finalists and baselines on the validation documents.

    With several objectives, all that are not dominated there are the front, and the winner is its
    knee. SearchError: no candidate could be scored.
    """
    best = [*_finalists(session), *session.history.baselines]
    contenders = list({item.number: item for item in best}.values())
    untried = [item for item in contenders if "validation" not in item.outcomes]
    scored = any(isinstance(item.outcomes.get("validation"), Scores) for item in contenders)
    if not (untried or scored):
        untried = contenders  # the cause why they all failed may be gone: try again
    session.score(untried, "validation")
    winners = session.ranking.incumbents(contenders, "validation")
    winner = session.ranking.best(winners, "validation")
    if winner is None:
        what = "finalists and baselines could be scored on the validation documents"
        outcomes = [item.outcomes["validation"] for item in contenders]
        raise _none_scored(what, outcomes, "continue with `evomerge resume`")
    front = session.ranking.front(winners)
    if session.history.winner is not winner or session.history.front != front:
        event: Event = {"event": "winner", "candidate": winner.number}
        event |= {"front": [member.number for member in front]} if front else {}
        # A reader of the journal has no parents to ask whether the base is tested, too.
        event |= {"base": session.bases[0].name} if session.bases else {}
        session.logbook.write(event)
        session.publish(winners, winner)
    return winner


def untested(session: Session) -> list[Candidate]:
    """Return what is to be tested and has no test scores yet; the base, too."""
    bases = session.history.bases or session.bases
    chosen = [*to_test(session.history, session.ranking), *bases]
    return [item for item in chosen if "test" not in item.outcomes]


def _finalists(session: Session) -> list[Candidate]:
    """Return the best candidates on the search documents; SearchError: none could be scored."""
    candidates = session.history.candidates
    count = session.problem.config.evaluation.validation.finalists
    finalists = session.ranking.finalists(candidates, count)
    if not finalists and session.history.open:
        raise SearchError(
            "The search was stopped before a candidate was scored; go on with `evomerge resume`."
        )
    if not finalists:
        outcomes = [item.outcomes.get("search") for item in candidates]
        raise _none_scored("candidates could be scored", outcomes, "start a new run")
    return finalists


def _none_scored(what: str, outcomes: Sequence[object], fix: str) -> SearchError:
    reasons = [item.reason for item in outcomes if isinstance(item, Failure)]
    reason = reasons[-1].rstrip(".") if reasons else "nothing, since there were no candidates"
    return SearchError(
        f"None of the {len(outcomes)} {what}; the last failed with: {reason}; remove the cause and "
        f"{fix}. log.txt in the folder of this run may say more."
    )
