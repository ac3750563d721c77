"""The search loop.

The strategy is asked for recipes. The session has each one built and scored, and journals the
outcome, which the strategy is told. At the end the winner is chosen and tested. A search that goes
on first repeats the calls to the strategy that its journal records.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from evomerge.errors import SearchError
from evomerge.problem.documents import restricted
from evomerge.recipe import Recipe
from evomerge.run.history import BELIEVED, Candidate
from evomerge.run.journal import Event
from evomerge.run.ranking import reached_bounds, to_test
from evomerge.scores import Failure, Scores
from evomerge.searching.session import Session
from evomerge.strategy.protocol import Believing, Origin, Preparing, Strategy

MOST_HELD = 10
"""Maximum number of consecutive candidates that wait for the scores of equal ones."""


@dataclass(eq=False)
class Search:
    """The search of one run. `run` starts or continues it and returns the winner.

    The strategy is made with the run's seed, at the first use: not if all candidates are there.
    """

    session: Session

    def __post_init__(self) -> None:
        self.problem, self.history = self.session.problem, self.session.history
        changed = self.history.budget  # by `resume`
        self.budget = self.problem.config.budget.model_copy(update=changed)
        self.pending: list[Candidate] = []
        """Candidates whose outcomes the strategy was not told yet, in the order of asking."""
        self.told_generations = 0
        """Number of generations that the strategy was told, in a search by generation."""
        self.told_count = 0
        """Number of outcomes that the strategy was told, in a search by arrival."""

    @cached_property
    def strategy(self) -> Strategy:
        """The strategy that proposes candidates, made at the first use."""
        with self.session.logbook.proposing():
            strategy: Strategy = self.problem.config.optimizer.make(self.problem)
            return strategy

    def run(self) -> Candidate:
        """Search, choose the winner on the validation documents, score it on the test documents."""
        self.session.publish_best()
        # With a raised budget there is a winner already while the last candidates are scored, or
        # while a generation is not whole, which only the strategy knows.
        may_ask = self.has_room and not self.session.logbook.is_stopping
        if may_ask or self.history.open or self.history.winner is None or _untested(self.session):
            if self.problem.config.executor.order == "arrival":
                self.search_by_arrival()
            else:
                self.search_by_generation()
        winner = _choose_winner(self.session)
        untested = _untested(self.session)
        if untested:
            self.session.write_texts()
        self.session.score(untested, "test")
        return winner

    def search_by_generation(self) -> None:
        """Ask for a generation, score it, tell the outcomes in the order of asking; repeat.

        The first generation of a resumed search may be asked for and scored in part already.
        """
        self.replay_generations()
        self.ask_baselines()
        if open_baselines := [item for item in self.history.open if item.label is not None]:
            self.session.score(open_baselines)
        while not self.session.logbook.is_stopping:
            if not self.is_full:
                self.ask_generation()
            self.session.score(self.history.open)
            if not self.is_full or self.session.logbook.is_stopping:
                return  # the whole generation was not allowed, or not scored
            self.tell_pending()

    def search_by_arrival(self) -> None:
        """Keep as many candidates open as the executor can run; tell each outcome at once."""
        self.replay_arrivals()
        self.ask_baselines()
        self.session.score(self.arriving())
        while not self.is_spent:  # an outcome may be better than those with which it was spent
            self.session.score(self.arriving())

    def arriving(self) -> Iterator[Candidate]:
        """Yield the open candidates, then new ones until the budget is spent.

        If the strategy has no other recipes than those that are being scored, no more are asked
        for until all of these have outcomes.
        """
        yield from self.history.open
        held = 0
        while held < MOST_HELD and (candidate := self.ask_after_arrivals()) is not None:
            yield candidate
            is_held = candidate.first_outcome is None and self.session.is_held(candidate)
            held = held + 1 if is_held else 0

    def ask_after_arrivals(self) -> Candidate | None:
        """Tell the strategy the outcomes that are new, and ask; None: the budget is spent."""
        while self.told_count < len(self.history.finished):
            self.tell(self.history.finished[self.told_count])
            self.told_count += 1
        return None if self.is_spent else self.ask()

    def replay_generations(self) -> None:
        """Repeat the calls that the journal records, telling outcomes generation by generation."""
        preparations = list(self.history.preparations)
        for candidate in self.history.candidates:
            if candidate.label is None and self.is_full:
                self.tell_pending()
            if candidate.is_believed:
                continue
            self.repeat_preparations(preparations, candidate.number)
            self.repeat(candidate)
            self.pending.append(candidate)
        if self.is_full and preparations:
            self.tell_pending()
        self.repeat_preparations(preparations, len(self.history.candidates))

    def repeat(self, candidate: Candidate) -> None:
        """Repeat the call that a candidate came from."""
        with self.session.logbook.proposing():
            self.strategy.repeat(candidate.number, candidate.label, candidate.origin)

    def repeat_preparations(self, events: list[Event], number: int) -> None:
        """Tell the strategy what was recorded before a candidate, and take it off the list."""
        while events and events[0]["candidate"] <= number:
            event = events.pop(0)
            if isinstance(self.strategy, Preparing):
                self.strategy.prepared(event["place"], event)

    def replay_arrivals(self) -> None:
        """Repeat the calls that the journal records, telling every outcome where it stands."""
        self.told_count = len(self.history.finished)
        for event in self.session.logbook.events:
            if event["event"] == "ask":
                self.repeat(self.history.candidates[event["candidate"]])
            elif event["event"] == "tell":
                self.tell(self.history.candidates[event["candidate"]])

    @property
    def is_full(self) -> bool:
        """Whether the pending candidates complete a generation, so that outcomes can be told.

        After the last proposal of a generation, `Strategy.left` counts from the next one.
        """
        return bool(self.pending) and self.strategy.left == self.strategy.generation

    def tell_pending(self) -> None:
        """Tell the strategy the outcomes of all pending candidates, in the order of asking."""
        for candidate in self.pending:
            self.tell(candidate)
        self.told_generations += any(item.fresh is not None for item in self.pending)
        self.pending.clear()

    def tell(self, candidate: Candidate) -> None:
        """Tell the strategy the first outcome of a candidate.

        With fresh documents, baselines and starts are learned with the first generation, so what is
        told is their scores on its documents.
        """
        assert candidate.first_outcome is not None
        outcome, fresh = candidate.first_outcome, self.session.fresh
        if fresh is not None and candidate.fresh is None and isinstance(outcome, Scores):
            outcome = restricted(outcome, fresh.sample(self.first_fresh, fresh.count))
        with self.session.logbook.proposing():
            self.strategy.tell(candidate.number, outcome)

    def ask_baselines(self) -> None:
        """Make candidates of the baselines that the journal does not have yet."""
        labels = {item.label for item in self.history.baselines}
        for label, recipe in self.problem.space.baselines().items():
            if label not in labels and self.has_room:
                origin = self.strategy.add_baseline(len(self.history.candidates), label)
                self.pending.append(self.journal(recipe, origin, {"label": label}))

    def ask_generation(self) -> None:
        """Ask for the rest of a generation, as far as the budget allows.

        One that has begun, if only with what the strategy believes in, is asked for whatever its
        first outcomes are: with more room from the start, they would not have been known.
        """
        latest = [item for item in self.history.candidates[-1:] if item.is_believed]
        begun = any(item.label is None for item in (*self.pending, *latest))

        def may_ask() -> bool:
            if begun:
                return self.has_room and not self.session.logbook.is_stopping
            return not self.is_spent

        if may_ask() and isinstance(self.strategy, Preparing):
            for slot, result in self.session.prepare(self.strategy.preparations()):
                self.strategy.prepared(slot, result)
        if may_ask():
            if not begun:
                self.ask_believed()
            while not self.is_full and self.has_room:
                self.ask()

    def ask_believed(self) -> None:
        """After some generations, make a candidate of what the strategy believes in.

        It is scored on all documents, of no generation, and the strategy is not told of it.
        """
        if (fresh := self.session.fresh) is None:
            return
        length = fresh.generations_to_mean(self.strategy.generation)
        if self.told_generations and self.told_generations % length == 0:
            assert isinstance(self.strategy, Believing)
            with self.session.logbook.proposing():
                recipe, origin = self.strategy.believed()
            self.journal(recipe, {**origin, BELIEVED: True}, {})

    def ask(self) -> Candidate:
        """Ask the strategy for a candidate and journal it."""
        fields: Event = {"generation": self.next_generation}
        with self.session.logbook.proposing():
            recipe, origin = self.strategy.ask(len(self.history.candidates))
        if self.session.fresh is not None and fields["generation"] >= self.first_fresh:
            fields["fresh"] = self.session.fresh.count
        candidate = self.journal(recipe, origin, fields)
        self.pending.append(candidate)
        return candidate

    def journal(self, recipe: Recipe, origin: Origin, fields: Event) -> Candidate:
        """Write the `ask` event of a new candidate, with further fields of the event."""
        number = len(self.history.candidates)
        event: Event = {"event": "ask", "candidate": number, "digest": recipe.digest}
        self.session.logbook.write(event | fields | {"origin": dict(origin)})
        candidate = self.history.candidates[number]
        candidate.recipe = recipe
        return candidate

    @property
    def next_generation(self) -> int:
        """Number of the generation of the next proposal, from 0."""
        latest = (item for item in reversed(self.history.candidates) if not item.is_believed)
        last = next((item.generation for item in latest), None)
        begins = self.strategy.left == self.strategy.generation
        return 0 if last is None else last + begins

    @property
    def first_fresh(self) -> int:
        """Number of the first generation with fresh documents: starts come before it."""
        assert isinstance(self.strategy, Believing)
        return 1 if self.strategy.start else 0

    @property
    def has_room(self) -> bool:
        """Whether the budget allows a further candidate of what is asked for together.

        Only the number counts: a search that is stopped between two baselines, or in a generation,
        might go on with outcomes that reach the target, and never ask for the rest.
        """
        limit = self.budget.candidates
        return limit is None or len(self.history.candidates) < limit

    @property
    def is_spent(self) -> bool:
        """Whether the budget, or a person, allows no further candidate."""
        session = self.session
        hours, incumbents = session.logbook.hours, session.incumbents
        ends = reached_bounds(self.budget, self.history, session.ranking, incumbents, hours)
        return session.logbook.is_stopping or any(ends)


def _choose_winner(session: Session) -> Candidate:
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


def _untested(session: Session) -> list[Candidate]:
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
