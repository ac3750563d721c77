"""The loop: optimizer asks, executor builds and scores, journal remembers, optimizer is told."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from evomerge.errors import SearchError
from evomerge.execute.protocol import Executor, Job
from evomerge.optimize.protocol import Optimizer
from evomerge.recipe import Recipe
from evomerge.run.folder import RunFolder
from evomerge.run.history import OPTIMIZER, Candidate, History, outcome_fields
from evomerge.run.journal import Event, Journal
from evomerge.scores import Failure, Objective, Outcome, Scores, Split, fitness
from evomerge.space.genes import Genome, Space

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saving:
    """What is to be known of earlier candidates where some are scored on fewer documents.

    Attributes:
        recent: how many of the latest.
        whole: only those that were scored on all documents.
    """

    recent: int
    whole: bool


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
        self.run, self.journal, self.space = run, journal, space
        self.optimizer, self.executor, self.objectives = optimizer, executor, objectives
        self.plan, self.publish, self.observe = plan, publish, observe
        self.history = History(journal.events)
        self.landmarks = space.landmarks()
        self.session, self.began = time.time(), time.monotonic()
        self.hours_before = run.hours()

    def go(self) -> Candidate:
        """Search until the plan is done, choose the winner on unseen documents, test it.

        Raises:
            SearchError: no candidate could be scored.
        """
        self.replay()
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
                if (twin := self.twin(candidate)) is not None:
                    self.tell(candidate, twin.outcomes["search"], twin)
                elif any(self.are_twins(candidate, other) for other in flying):
                    held.append(candidate)
                else:
                    self.executor.submit(self.job(candidate))
                    flying.append(candidate)
            if not flying:
                return self.conclude()
            job, outcome = self.executor.next()
            landed = self.history.candidates[job.number]
            flying.remove(landed)
            self.tell(landed, outcome)
            for candidate in [item for item in held if self.are_twins(item, landed)]:
                held.remove(candidate)
                twin = landed if landed.status == "scored" else None
                self.tell(candidate, outcome, twin)

    def propose(self) -> Iterator[Candidate]:
        """Yield new candidates, landmarks first, each journaled before it is yielded."""
        known = {item.origin for item in self.history.candidates}
        genomes = self.space.landmark_genomes()
        for label, recipe in self.landmarks.items():
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

        Candidates of different generations saw different documents; the leader stays leader only
        if its mean over all that it saw stays the best.
        """
        trials = sum(item.trial is not None for item in self.history.candidates)
        generation, leader = trials // self.plan.population, self.history.leader
        known = {0, *self.history.rescored}
        if not self.plan.rotating or generation in known or leader is None:
            return
        job = Job(leader.number, recipe_of(leader, self.space), subset=generation)
        self.executor.submit(job)
        outcome = self.executor.next()[1]
        if not isinstance(outcome, Failure):
            event: Event = {"event": "rescore", "candidate": leader.number, "subset": generation}
            value = fitness(self.objectives, outcome)
            self.record(event | outcome_fields(outcome) | {"fitness": value}, outcome)

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
        self.record(event)
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
        self.record(event, outcome)
        if candidate.trial is not None:
            self.optimizer.tell(candidate.trial, None if value is None else (value,))
        if self.history.winner is None and self.history.leader is not leader:
            self.publish_best()

    def conclude(self) -> Candidate:
        """Choose the winner on validation documents, then test it.

        Parents and the uniform merge take part: a search that does not beat them says so. No
        finalist rests on an estimate: whoever stands among the best by one is scored on all search
        documents, until nobody does.
        """
        finalists = self.history.finalists(self.plan.finalists)
        while estimated := [item for item in finalists if item.is_estimate]:
            self.complete(estimated[0])
            finalists = self.history.finalists(self.plan.finalists)
        if not finalists:
            outcomes = [item.outcomes.get("search") for item in self.history.candidates]
            reasons = [item.reason for item in outcomes if isinstance(item, Failure)]
            raise SearchError(
                f"None of the {len(outcomes)} candidates could be scored; the last failed with: "
                f"{reasons[-1] if reasons else 'nothing, for none was asked'}"
            )
        contenders = list(
            {item.number: item for item in [*finalists, *self.history.landmarks]}.values()
        )
        self.score(contenders, "validation")
        winner = max(contenders, key=lambda item: (self.value(item, "validation"), -item.number))
        if self.history.winner is not winner:
            self.record({"event": "winner", "candidate": winner.number})
            self.publish_best()
        self.score([winner, *self.history.landmarks], "test")
        return winner

    def score(self, candidates: Sequence[Candidate], split: Split) -> None:
        """Score candidates on a split, each once."""
        for candidate in candidates:
            if split not in candidate.outcomes:
                job = Job(candidate.number, recipe_of(candidate, self.space), split)
                self.executor.submit(job)
                outcome = self.executor.next()[1]
                event: Event = {"event": "score", "candidate": candidate.number, "split": split}
                self.record(event | outcome_fields(outcome), outcome)

    def complete(self, candidate: Candidate) -> None:
        """Score a candidate of estimated fitness on all search documents."""
        subset = candidate.generation if self.plan.rotating else None
        self.executor.submit(Job(candidate.number, recipe_of(candidate, self.space), subset=subset))
        outcome = self.executor.next()[1]
        event: Event = {"event": "complete", "candidate": candidate.number}
        if not isinstance(outcome, Failure):
            event["fitness"] = fitness(self.objectives, outcome)
        self.record(event | outcome_fields(outcome), outcome)

    def replay(self) -> None:
        """Put the journaled calls into the new optimizer, so that it goes on where it was.

        Where floating point differs from the machine that wrote the journal, the recorded
        genomes stay the truth and the search goes on.
        """
        drift = 0.0
        for event in self.journal.events:
            if event["event"] not in ("ask", "tell"):
                continue
            candidate = self.history.candidates[event["candidate"]]
            if candidate.trial is None or candidate.genome is None:
                continue
            if event["event"] == "ask":
                if candidate.origin != OPTIMIZER:
                    self.optimizer.suggest(candidate.genome)
                trial, genome = self.optimizer.ask()
                if genome != candidate.genome:
                    pairs = zip(genome, candidate.genome, strict=True)
                    drift = max(drift, *(abs(new - old) for new, old in pairs))
                    self.optimizer.amend(trial, candidate.genome)
            else:
                # What it was told then: a leader's fitness moves when it is scored again.
                value = event.get("fitness")
                self.optimizer.tell(candidate.trial, None if value is None else (value,))
        if drift:
            log.warning(
                "This machine computes genomes that differ by up to %.2g from the recorded ones; "
                "the recorded ones stay, and the search goes on.",
                drift,
            )
        if self.history.best() is not None:
            self.publish_best()

    def job(self, candidate: Candidate) -> Job:
        """Return the job that scores a candidate on the search documents."""
        subset = candidate.generation if self.plan.rotating else None
        recipe = recipe_of(candidate, self.space)
        elite, earlier = self.elite(candidate), self.earlier(candidate)
        return Job(candidate.number, recipe, subset=subset, against=elite, earlier=earlier)

    def earlier(self, candidate: Candidate) -> tuple[Scores, ...]:
        """Return the scores, known when a candidate was asked, that its own may build on."""
        saving = self.plan.saving
        if saving is None or candidate.against is None:
            return ()
        told = [item for item in self.history.told[: candidate.known] if isinstance(item, Scores)]
        wanted = [item for item in told if not (saving.whole and item.expected)]
        return tuple(wanted[-saving.recent :])

    def elite(self, candidate: Candidate) -> Scores | None:
        """Return the scores of the leader that a candidate is compared with."""
        if candidate.against is None:
            return None
        elite = self.history.candidates[candidate.against]
        if self.plan.rotating and candidate.generation != elite.generation:
            return elite.subsets.get(candidate.generation)
        return elite.scores("search")

    def twin(self, candidate: Candidate) -> Candidate | None:
        """Return a scored candidate of the same recipe and the same documents."""
        for other in self.history.candidates[: candidate.number]:
            if other.status == "scored" and self.are_twins(candidate, other):
                return other
        return None

    def are_twins(self, candidate: Candidate, other: Candidate) -> bool:
        """Whether the scores of `other` are those that `candidate` would get."""
        same = not self.plan.rotating or other.generation == candidate.generation
        return other.digest == candidate.digest and same

    def value(self, candidate: Candidate, split: Split) -> float:
        """Return a candidate's fitness on a split, -inf without scores."""
        scores = candidate.scores(split)
        value = fitness(self.objectives, scores) if scores else math.nan
        return value if math.isfinite(value) else -math.inf

    def is_between_generations(self) -> bool:
        """Whether the next trial must wait for those that are open."""
        trials = sum(candidate.trial is not None for candidate in self.history.candidates)
        return self.plan.together and trials % self.plan.population == 0

    def is_spent(self) -> bool:
        """Whether the plan allows no further candidate."""
        plan, leader = self.plan, self.history.leader
        if plan.candidates is not None and len(self.history.candidates) >= plan.candidates:
            return True
        hours = self.hours_before + (time.monotonic() - self.began) / 3600
        if plan.hours is not None and hours >= plan.hours:
            return True
        reached = leader.fitness if leader is not None and leader.fitness is not None else -math.inf
        return plan.target is not None and reached >= plan.target

    def publish_best(self) -> None:
        """Hand on the best candidate and its recipe."""
        best = self.history.best()
        if best is not None:
            self.publish(best, recipe_of(best, self.space))

    def record(self, event: Event, outcome: Outcome | None = None) -> None:
        """Journal an event, take it into the history, note what it cost, tell the observer."""
        self.journal.append(event)
        self.history.apply(event)
        if outcome is not None:
            seconds = {} if isinstance(outcome, Failure) else dict(outcome.seconds)
            elapsed = round(time.monotonic() - self.began, 3)
            place = {"session": self.session, "elapsed": elapsed}
            self.run.note_timing(place | {"candidate": event["candidate"], "seconds": seconds})
        self.observe(self.history, event)


def recipe_of(candidate: Candidate, space: Space) -> Recipe:
    """Return a candidate's recipe.

    Raises:
        SearchError: it is not the recipe that was journaled.
    """
    if candidate.origin == OPTIMIZER:
        recipe = space.decode(candidate.genome or ())
    else:
        recipe = space.landmarks()[candidate.origin]
    if recipe.digest != candidate.digest:
        raise SearchError(
            f"Candidate {candidate.number} no longer decodes to the recipe it was scored with; "
            "use the evomerge version named in the run's search.yaml."
        )
    return recipe
