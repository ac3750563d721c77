"""The loop: optimizer asks, executor builds and scores, journal remembers, optimizer is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from evomerge.execute.protocol import Executor
from evomerge.finals import Finals
from evomerge.jobs import Jobs, Saving, recipe_of
from evomerge.optimize.protocol import Optimizer
from evomerge.recipe import Recipe
from evomerge.replay import replay
from evomerge.run.folder import RunFolder
from evomerge.run.history import OPTIMIZER, Candidate, History, outcome_fields
from evomerge.run.journal import Event, Journal
from evomerge.run.logbook import Logbook
from evomerge.scores import Failure, Objective, Outcome, fitness
from evomerge.space.genes import Genome, Space


@dataclass(frozen=True)
class Plan:
    """How long to search, and how candidates are compared.

    Attributes:
        candidates: largest number of candidates, landmarks included; None is no bound.
        hours: working time over all sessions of the run; None is no bound.
        target: fitness on the search documents that is good enough; None is no bound.
        population: candidates in a generation.
        finalists: how many of the best are scored on the validation documents.
        saving: candidates need not be scored on all documents, compared with the leader and with
            earlier ones; None where each is.
        rotating: give every generation its own subset of the search documents.
        together: open no trial of a generation while one of the generation before is open.
    """

    candidates: int | None
    hours: float | None
    target: float | None
    population: int
    finalists: int
    saving: Saving | None = None
    rotating: bool = False
    together: bool = False


class Search:
    """One search over a run folder; `go` starts or continues it and returns the winner.

    Args:
        publish: called with every new best candidate and its recipe.
        observe: called after every event, with the history and the event.
    """

    def __init__(
        self,
        run: RunFolder,
        journal: Journal,
        space: Space,
        optimizer: Optimizer,
        executor: Executor,
        objectives: Sequence[Objective],
        plan: Plan,
        publish: Callable[[Candidate, Recipe], None],
        observe: Callable[[History, Event], None],
    ) -> None:
        self.journal, self.space, self.optimizer = journal, space, optimizer
        self.executor, self.objectives, self.plan = executor, objectives, plan
        self.publish = publish
        self.logbook = Logbook(run, journal, observe)
        self.history = self.logbook.history
        self.jobs = Jobs(space, self.history, plan.saving, plan.rotating)

    def go(self) -> Candidate:
        """Search until the plan is done, choose the winner on unseen documents, test it.

        Raises:
            SearchError: no candidate could be scored.
        """
        replay(self.journal.events, self.history, self.optimizer)
        self.publish_best()
        waiting, proposals = self.history.open, self.propose()
        flying: list[Candidate] = []
        held: list[Candidate] = []  # their recipe is flying already
        while True:
            while len(flying) < self.executor.capacity:
                if flying and not waiting and self.is_between_generations():
                    break
                candidate = waiting.pop(0) if waiting else next(proposals, None)
                if candidate is None:
                    break
                if (twin := self.jobs.twin(candidate)) is not None:
                    self.tell(candidate, twin.outcomes["search"], twin)
                elif any(self.jobs.are_twins(candidate, other) for other in flying):
                    held.append(candidate)
                else:
                    self.executor.submit(self.jobs.first(candidate))
                    flying.append(candidate)
            if not flying:
                return self.conclude()
            job, outcome = self.executor.next()
            landed = self.history.candidates[job.number]
            flying.remove(landed)
            self.tell(landed, outcome)
            for candidate in [item for item in held if self.jobs.are_twins(item, landed)]:
                held.remove(candidate)
                twin = landed if landed.status == "scored" else None
                self.tell(candidate, outcome, twin)

    def propose(self) -> Iterator[Candidate]:
        """Yield new candidates, landmarks first, each journaled before it is yielded."""
        known = {item.origin for item in self.history.candidates}
        genomes = self.space.landmark_genomes()
        for label, recipe in self.space.landmarks().items():
            if label not in known and not self.is_spent():
                trial = None
                if label in genomes:
                    self.optimizer.suggest(genomes[label])
                    trial, _ = self.optimizer.ask()
                yield self.ask(label, recipe, trial, genomes.get(label))
        while not self.is_spent():
            self.rescore_leader()
            trial, genome = self.optimizer.ask()
            yield self.ask(OPTIMIZER, self.space.decode(genome), trial, genome)

    def rescore_leader(self) -> None:
        """Score the leader on the documents of a new generation, where they rotate.

        Candidates of different generations saw different documents; a leader stays leader only if
        its mean over all that it saw stays the best, and who comes to lead instead is scored too.
        """
        trials = sum(item.trial is not None for item in self.history.candidates)
        generation = trials // self.plan.population
        while self.plan.rotating and (leader := self.history.leader) is not None:
            if generation in {leader.generation, *leader.subsets}:
                return
            self.executor.submit(self.jobs.again(leader, generation))
            outcome = self.executor.next()[1]
            if isinstance(outcome, Failure):
                return
            event: Event = {"event": "rescore", "candidate": leader.number, "subset": generation}
            value = fitness(self.objectives, outcome)
            self.logbook.write(event | outcome_fields(outcome) | {"fitness": value}, outcome)

    def ask(
        self, origin: str, recipe: Recipe, trial: int | None, genome: Genome | None
    ) -> Candidate:
        """Journal a new candidate."""
        number = len(self.history.candidates)
        event: Event = {
            "event": "ask",
            "candidate": number,
            "origin": origin,
            "digest": recipe.digest,
        }
        if trial is not None and genome is not None:
            event["generation"] = trial // self.plan.population
            event |= {"trial": trial, "genome": list(genome)}
        leader = self.history.leader
        if self.plan.saving and leader is not None and origin == OPTIMIZER:
            event["against"] = leader.number
        self.logbook.write(event)
        return self.history.candidates[number]

    def tell(self, candidate: Candidate, outcome: Outcome, twin: Candidate | None = None) -> None:
        """Journal what came out of a candidate and tell the optimizer."""
        event: Event = {"event": "tell", "candidate": candidate.number}
        value = None
        if not isinstance(outcome, Failure):
            value = fitness(self.objectives, outcome)
            if not math.isfinite(value):
                outcome, value = Failure("evaluate", "The fitness is not a finite number."), None
        event |= {"same_as": twin.number} if twin else outcome_fields(outcome)
        if value is not None:
            event["fitness"] = value
        leader = self.history.leader
        self.logbook.write(event, outcome)
        if candidate.trial is not None:
            self.optimizer.tell(candidate.trial, None if value is None else (value,))
        if self.history.winner is None and self.history.leader is not leader:
            self.publish_best()

    def conclude(self) -> Candidate:
        """Choose the winner on the validation documents, publish and test it."""
        finals = Finals(
            self.logbook, self.jobs, self.executor, self.objectives, self.plan.finalists
        )
        winner = finals.winner()
        if self.history.winner is not winner:
            self.logbook.write({"event": "winner", "candidate": winner.number})
            self.publish_best()
        finals.test(winner)
        return winner

    def is_between_generations(self) -> bool:
        """Whether the next trial must wait for those that are open."""
        trials = sum(candidate.trial is not None for candidate in self.history.candidates)
        return self.plan.together and trials % self.plan.population == 0

    def is_spent(self) -> bool:
        """Whether the plan allows no further candidate."""
        plan, leader = self.plan, self.history.leader
        if plan.candidates is not None and len(self.history.candidates) >= plan.candidates:
            return True
        if plan.hours is not None and self.logbook.hours >= plan.hours:
            return True
        reached = leader.fitness if leader is not None and leader.fitness is not None else -math.inf
        return plan.target is not None and reached >= plan.target

    def publish_best(self) -> None:
        """Hand on the best candidate and its recipe."""
        best = self.history.best()
        if best is not None:
            self.publish(best, recipe_of(best, self.space))
