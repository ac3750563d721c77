"""The loop: strategy asks, executor builds and scores, journal remembers, strategy is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from evomerge.recipe import Recipe
from evomerge.run.history import Candidate
from evomerge.run.journal import Event
from evomerge.search.finals import choose_winner, is_finished, score_on_test
from evomerge.search.replay import is_full, replay_arrivals, replay_generations, tell_all
from evomerge.search.session import Session
from evomerge.strategy.protocol import Origin, Strategy

Order: TypeAlias = Literal["generation", "arrival"]
"""When the strategy is told.

`generation`: once a generation is complete, in the order of asking, so that the trajectory does
not depend on how many jobs run at a time. `arrival`: whenever an outcome comes; nothing waits.
"""


@dataclass(frozen=True)
class Plan:
    """How long to search, and in which order.

    Attributes:
        candidates: largest number of candidates, baselines included; None is no bound.
        hours: working time over all sessions of the run; None is no bound.
        target: value on the search documents that is good enough; None is no bound.
        finalists: how many of the best are scored on the validation documents.
        order: when the strategy is told.
    """

    candidates: int | None
    hours: float | None
    target: float | None
    finalists: int
    order: Order


class Search:
    """One search over a run; `go` starts or continues it and returns the winner.

    Args:
        session: runs jobs and keeps the journal.
        make_strategy: makes a new strategy, of the run's seed; called if the search goes on.
        baselines: what is scored first and compared with, by label.
        plan: how long to search.
    """

    def __init__(
        self,
        session: Session,
        make_strategy: Callable[[], Strategy],
        baselines: Mapping[str, Recipe],
        plan: Plan,
    ) -> None:
        self.session, self.history = session, session.history
        self.make_strategy, self.baselines, self.plan = make_strategy, baselines, plan
        self.untold: list[Candidate] = []
        """What the strategy has been asked for and not told of, in the order of asking."""

    @cached_property
    def strategy(self) -> Strategy:
        """What proposes the candidates."""
        return self.make_strategy()

    def go(self) -> Candidate:
        """Search until the plan is done, choose the winner on unseen documents, test it.

        Raises:
            EvomergeError: no candidate could be scored, or something outside of the candidates
                has failed.
        """
        self.session.publish_leading()
        if not (self.is_spent and is_finished(self.history)):
            if self.plan.order == "generation":
                self.search_by_generation()
            else:
                self.search_as_they_come()
        winner = choose_winner(self.session, self.plan.finalists)
        score_on_test(self.session, winner)
        return winner

    def search_by_generation(self) -> None:
        """Ask for a generation, score all of it, tell it in the order of asking."""
        self.untold = replay_generations(self.history, self.strategy)
        self.ask_baselines()
        self.session.score([item for item in self.history.open if item.label is not None])
        while True:
            if not is_full(self.strategy, self.untold):
                self.ask_generation()
            self.session.score(self.history.open)
            if not is_full(self.strategy, self.untold):
                return
            tell_all(self.strategy, self.untold)

    def search_as_they_come(self) -> None:
        """Keep as many candidates open as the executor runs at a time; tell each as it comes."""
        replay_arrivals(self.session.logbook.events, self.history, self.strategy)
        told = len(self.history.told)
        self.ask_baselines()
        waiting = self.history.open
        while True:
            while told < len(self.history.told):
                tell_all(self.strategy, self.history.told[told : told + 1])
                told += 1
            wanted = bool(waiting) or not self.is_spent
            if wanted and self.session.in_flight < self.session.executor.width:
                candidate = waiting.pop(0) if waiting else self.ask(self.session.leading, told)
                self.session.submit([candidate])
            elif self.session.in_flight:
                self.session.wait()
            else:
                return

    def ask_baselines(self) -> None:
        """Ask for the baselines that the journal does not have yet."""
        known = {item.label for item in self.history.baselines}
        for label, recipe in self.baselines.items():
            if label not in known and not self.is_spent:
                origin = self.strategy.take(len(self.history.candidates), label)
                self.journal(recipe, origin, {"label": label})

    def ask_generation(self) -> None:
        """Ask for what is missing of a generation, as far as the plan allows.

        All of it is compared with whoever led before its first candidate was asked.
        """
        begun = [item.number for item in self.untold if item.label is None]
        start = begun[0] if begun else len(self.history.candidates)
        leading = self.session.ranking.incumbents(self.history.candidates[:start])
        while not self.is_spent:
            self.ask(leading, start)
            if is_full(self.strategy, self.untold):
                return

    def ask(self, leading: list[Candidate], known: int) -> Candidate:
        """Ask the strategy for a candidate and journal it.

        Args:
            leading: who leads, for the candidate to be compared with.
            known: how many of the journal's outcomes it may build on.
        """
        place: Event = {"generation": self.generation}
        proposal = self.strategy.ask(len(self.history.candidates))
        if self.session.window is not None and leading:
            place |= {"incumbent": leading[0].number, "known": known}
        return self.journal(proposal.recipe, proposal.origin, place)

    def journal(self, recipe: Recipe, origin: Origin, place: Event) -> Candidate:
        """Write down that a candidate was asked for."""
        number = len(self.history.candidates)
        event: Event = {"event": "ask", "candidate": number, "digest": recipe.digest}
        self.session.logbook.write(event | place | {"origin": dict(origin)})
        self.untold.append(self.history.candidates[number])
        return self.history.candidates[number]

    @property
    def generation(self) -> int:
        """Number of the generation that the next proposal belongs to."""
        last = self.history.candidates[-1].generation if self.history.candidates else None
        if last is None:
            return 0
        return last + 1 if self.strategy.left == self.strategy.generation else last

    @property
    def is_spent(self) -> bool:
        """Whether the plan allows no further candidate."""
        plan = self.plan
        if plan.candidates is not None and len(self.history.candidates) >= plan.candidates:
            return True
        if plan.hours is not None and self.session.logbook.hours >= plan.hours:
            return True
        values = [item.values[0] for item in self.session.leading if item.values]
        return plan.target is not None and any(value >= plan.target for value in values)
