"""The end of a search: the best are scored on documents that it never saw."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.errors import SearchError
from evomerge.run.history import Candidate, History
from evomerge.scores import Failure, Scores
from evomerge.search.session import Session


def is_finished(history: History) -> bool:
    """Whether a winner was chosen, and it and the baselines were tried on the test documents."""
    if history.winner is None:
        return False
    return all("test" in item.outcomes for item in (history.winner, *history.baselines))


def choose_winner(session: Session, count: int) -> Candidate:
    """Return the best of finalists and baselines on the validation documents.

    Parents and the uniform merge take part: a search that does not beat them says so.

    Args:
        count: how many of the best take part.

    Raises:
        SearchError: no candidate could be scored.
    """
    wanted = [*_finalists(session, count), *session.history.baselines]
    contenders = list({item.number: item for item in wanted}.values())
    untried = [item for item in contenders if "validation" not in item.outcomes]
    if not any(isinstance(item.outcomes.get("validation"), Scores) for item in contenders):
        untried = contenders  # whatever failed them all may be mended by now
    session.score(untried, "validation")
    winners = session.ranking.incumbents(contenders, "validation")
    if not winners:
        reasons = [item.outcomes["validation"] for item in contenders]
        raise SearchError(
            f"None of the {len(contenders)} finalists and baselines could be scored on the "
            f"validation documents; the last failed with: {_reason(reasons)}"
        )
    if session.history.winner is not winners[0]:
        session.logbook.write({"event": "winner", "candidate": winners[0].number})
        session.publish(winners)
    return winners[0]


def score_on_test(session: Session, winner: Candidate) -> None:
    """Score the winner and the baselines on the test documents."""
    contenders = {item.number: item for item in (winner, *session.history.baselines)}
    untried = [item for item in contenders.values() if "test" not in item.outcomes]
    session.score(untried, "test")


def _finalists(session: Session, count: int) -> list[Candidate]:
    """Return the best on the search documents.

    None of them rests on an estimate: whoever is among the best by one is scored on all search
    documents, until nobody is.

    Raises:
        SearchError: no candidate could be scored.
    """
    candidates = session.history.candidates
    finalists = session.ranking.finalists(candidates, count)
    while estimated := [item for item in finalists if item.is_estimate]:
        session.score(estimated, "complete")
        finalists = session.ranking.finalists(candidates, count)
    if not finalists:
        reasons = [item.outcomes.get("search") for item in candidates]
        raise SearchError(
            f"None of the {len(reasons)} candidates could be scored; the last failed with: "
            f"{_reason(reasons)}"
        )
    return finalists


def _reason(outcomes: Sequence[object]) -> str:
    reasons = [item.reason for item in outcomes if isinstance(item, Failure)]
    return reasons[-1] if reasons else "nothing, for none was asked."
