"""One session of a search: makes jobs of candidates, and journals the outcomes."""

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

from evomerge.errors import RecipeError, SearchError
from evomerge.evaluation.tasks.base_texts import Text, digest_of
from evomerge.execute.protocol import Executor, Job, Work, WorkResult
from evomerge.mergekit import express
from evomerge.problem.documents import fresh_documents
from evomerge.problem.parents import pinned
from evomerge.problem.parents_as_themselves import (
    base_to_test,
    parent_itself,
    recipe_to_write,
    unchanged_parent,
)
from evomerge.problem.problem import Problem, recipe_of
from evomerge.recipe import Recipe
from evomerge.run.folder import MERGEKIT, NOT_IN_MERGEKIT, TEXTS
from evomerge.run.history import BASE, PREPARED, Candidate, outcome_fields
from evomerge.run.journal import Event
from evomerge.run.logbook import Logbook
from evomerge.run.ranking import best_of, front_of, leading
from evomerge.scores import BASE_TEXTS, Documents, Failure, Outcome, Scores, Split, violation
from evomerge.searching.texts import WriteTexts, count_texts, read_texts

log = logging.getLogger(__name__)

EXAMPLES = 3
"""Documents of each task whose prompts and answers are kept, of baselines and of the winner."""

SAME_FAILURES = 10
"""Number of equal failures in a row at which a search stops."""


class Session:
    """Has candidates scored and journals their outcomes.

    Attributes:
        history: what the journal says so far.
        ranking: what compares candidates.
        fresh: draws the search documents of each generation; None: all candidates have all.
        bases: the base, numbered `BASE`, if it is tested besides the winner.
        incumbents: the best candidate so far, or the front.
        texts: those of the base, which models are tested with.
        most_failures: number of equal failures in a row at which the search stops.
    """

    def __init__(self, problem: Problem, logbook: Logbook) -> None:
        self.problem, self.logbook, self.history = problem, logbook, logbook.history
        self.ranking, self.fresh = problem.ranking, fresh_documents(problem)
        self.bases: Sequence[Candidate] = base_to_test(problem)
        self.incumbents = leading(self.ranking, self.history.candidates)
        # A study is told failures, and its user sees them.
        self.most_failures = math.inf if problem.config.is_study else SAME_FAILURES
        self.texts: Sequence[Text] = ()
        self._failures: list[Failure] = []

    @cached_property
    def executor(self) -> Executor:
        """The executor, made at the first use."""
        executor: Executor = self.problem.config.executor.make(self.problem, self.logbook)
        return executor

    def close(self) -> None:
        """Close the executor, if it was made."""
        if "executor" in self.__dict__:
            self.executor.close()

    def publish(self, front: Sequence[Candidate], best: Candidate) -> None:
        """Write the best candidate's recipe to `best.yaml` and, for mergekit, `best.mergekit.yaml`.

        If mergekit cannot express it, `best.not-in-mergekit.txt` says why instead. In a search for
        a front, the recipes of its members are `front/NUMBER.yaml`; others are removed there.
        """
        run, checkpoints = self.logbook.run, self.problem.checkpoints
        recipe = recipe_to_write(self.problem, best)
        run.write("best.yaml", pinned(recipe, checkpoints).to_yaml())
        try:
            name, other, text = MERGEKIT, NOT_IN_MERGEKIT, express(recipe, checkpoints)
        except RecipeError as error:
            name, other, text = NOT_IN_MERGEKIT, MERGEKIT, f"{error}\n"
        (run.path / other).unlink(missing_ok=True)
        run.write(name, text)
        if not self.ranking.has_front:
            return
        folder = run.path / "front"
        folder.mkdir(exist_ok=True)
        members = {f"{member.number}.yaml": member for member in front}
        there = {path.name for path in folder.glob("*.yaml")}
        for name in members.keys() - there:
            recipe = recipe_to_write(self.problem, members[name])
            run.write(f"front/{name}", pinned(recipe, checkpoints).to_yaml())
        for name in there - members.keys():
            (folder / name).unlink()

    def publish_best(self) -> None:
        """Publish the winner; before there is one, the incumbents."""
        best, front = best_of(self.history, self.ranking), front_of(self.history, self.ranking)
        if best is not None:
            self.publish(front, best)

    def score(self, candidates: Iterable[Candidate], split: Split = "search") -> None:
        """Score candidates, and journal their outcomes.

        They are taken one by one, when the executor has room. A recipe is scored on the same search
        documents once: further candidates with it get the same scores. If the search is asked to
        stop, candidates that have not begun stay open.

        Raises:
            EvomergeError: the search cannot go on.
        """
        if split == "search":
            for candidate in self.history.open:  # a kill may have come between equal ones
                self.take_scores(candidate)
        else:  # a worker drops its model for a parent as itself, so these come last
            candidates = sorted(candidates, key=lambda each: self._itself(each, split) is not None)
            self.logbook.note_finals(split, len(candidates))
        queue = _Queue(self, iter(candidates), split)
        jobs = queue.jobs()
        if (first := next(jobs, None)) is not None:  # without one, no executor need be made
            for job, outcome in self.executor.run(chain((first,), jobs)):
                assert not isinstance(outcome, WorkResult)
                self.record(queue.running.pop(job.candidate), outcome, split)
        if queue.held:  # an equal one has failed
            self.score(queue.held)

    def is_held(self, candidate: Candidate) -> bool:
        """Whether an earlier candidate with the same recipe is open."""
        return any(item.first_outcome is None for item in self.history.earlier_equals(candidate))

    def take_scores(self, candidate: Candidate) -> bool:
        """Give a candidate the scores of an earlier one with its recipe; return whether it can."""
        for scored in self.history.earlier_equals(candidate):
            if isinstance(scored.first_outcome, Scores):
                self._tell(candidate, scored.first_outcome, scored)
                return True
        return False

    def record(self, candidate: Candidate, outcome: Outcome, split: Split = "search") -> None:
        """Journal an outcome, for the open candidates with the same recipe too."""
        if split == "search":
            self._tell(candidate, outcome)
            for item in self.history.open:
                if item.digest == candidate.digest:
                    self.take_scores(item)
            return
        event: Event = {"event": "score", "candidate": candidate.number, "split": split}
        if self._itself(candidate, split) is not None:
            event["as_itself"] = True
        if candidate.number == BASE:
            event |= {"event": "base", "label": candidate.label, "digest": candidate.digest}
        self._write(event | outcome_fields(outcome), outcome)

    def prepare(self, works: Mapping[int, Work]) -> Iterator[tuple[int, Event]]:
        """Have the work of a strategy done; yield the slot and the result when it is journaled."""
        following = len(self.history.candidates)
        jobs = [Job(following + slot, work.recipe, work=work) for slot, work in works.items()]
        for job, result in self.executor.run(jobs) if jobs else ():
            slot = job.candidate - following
            if isinstance(result, Failure):
                self._check_failures(result)
                result = WorkResult(fields=works[slot].failed(outcome_text(result)))
            assert isinstance(result, WorkResult)
            event: Event = {"event": PREPARED, "candidate": following, "place": slot}
            event |= result.fields
            self.logbook.write(event, result)
            yield slot, event

    def write_texts(self) -> None:
        """Let a worker write the texts of the base, once in a run, before anything is tested.

        RunFolderError: the file of texts is not the one that the journal names.
        """
        base = self.problem.config.base
        if self.problem.config.also_texts is None or base is None:
            return
        run, event = self.logbook.run, self.history.texts
        if event is None:
            work = WriteTexts(
                recipe=unchanged_parent(self.problem, base),
                count=count_texts(self.problem, self.history),
                seed=self.problem.config.seed,
            )
            number = len(self.history.candidates)
            for _, result in self.executor.run([Job(number, work.recipe, work=work)]):
                if isinstance(result, Failure):
                    result = WorkResult(fields=work.failed(outcome_text(result)))
                assert isinstance(result, WorkResult)
                fields = dict(result.fields)
                if lines := fields.pop("lines", ""):
                    run.write(TEXTS, lines)
                    fields["digest"] = digest_of(lines)
                self.logbook.write({"event": "texts", "candidate": BASE, **fields}, result)
            event = self.history.texts
        if event is not None and "digest" in event:
            self.texts = read_texts(run, event["digest"])

    def recipe(self, candidate: Candidate) -> Recipe:
        """Return the recipe of a candidate."""
        return candidate.recipe or recipe_of(self.problem.space, candidate)

    def job(self, candidate: Candidate, split: Split) -> Job:
        """Return the job that scores a candidate."""
        itself = self._itself(candidate, split)
        is_baseline = split == "search" and candidate.label is not None
        documents: Documents | None = None
        if split == "test" and self.texts:
            documents = {**self.problem.splits[split], BASE_TEXTS: range(len(self.texts))}
        if self.fresh is not None and split == "search" and candidate.fresh is not None:
            documents = self.fresh.sample(candidate.generation or 0, candidate.fresh)
        return Job(
            candidate.number,
            itself or self.recipe(candidate),
            split,
            documents=documents,
            examples=EXAMPLES if is_baseline or split == "test" else 0,
            oom_backoffs=self.history.oom_backoffs,
            as_itself=itself is not None,
            texts=self.texts if split == "test" else (),
        )

    def _itself(self, candidate: Candidate, split: Split) -> Recipe | None:
        """Return the recipe of the parent that is scored in place of the candidate, if any."""
        return parent_itself(self.problem, candidate) if split != "search" else None

    def _tell(
        self, candidate: Candidate, outcome: Outcome, scored: Candidate | None = None
    ) -> None:
        """Journal a candidate's outcome, perhaps that of an earlier one with its recipe."""
        if self.fresh is not None and candidate.fresh is not None and isinstance(outcome, Scores):
            outcome = self.fresh.estimate(outcome)
        outcome, values = self._with_values(outcome)
        event: Event = {"event": "tell", "candidate": candidate.number}
        event |= outcome_fields(outcome) if scored is None else {"same_as": scored.number}
        candidate.recipe = None
        self._write(event | values, outcome)
        incumbents = leading(self.ranking, [*self.incumbents, candidate])
        if incumbents != self.incumbents:
            self.incumbents = incumbents
            best = self.ranking.best(incumbents)
            if self.history.winner is None and best is not None:
                self.publish(incumbents, best)

    def _with_values(self, outcome: Outcome) -> tuple[Outcome, Event]:
        """Return an outcome, and its values as a field; a failure if one is not finite."""
        if isinstance(outcome, Failure):
            return outcome, {}
        values = self.ranking.values(outcome)
        broken = violation(self.ranking.constraints, outcome)
        if all(map(math.isfinite, (*values, broken))):
            return outcome, {"values": list(values)}
        what = "An objective" if self.ranking.has_front else "The fitness"
        if not math.isfinite(broken):
            what = "What a constraint bounds"
        return Failure("evaluate", f"{what} is not a finite number."), {}

    def _write(self, event: Event, outcome: Outcome) -> None:
        """Journal an event that carries an outcome, and a batch size that memory has forced."""
        if isinstance(outcome, Scores) and outcome.oom_backoffs > self.history.oom_backoffs:
            self.logbook.write({"event": "memory", "halvings": outcome.oom_backoffs})
        self.logbook.write(event, outcome)
        self._check_failures(outcome)

    def _check_failures(self, outcome: Outcome) -> None:
        """Stop the search after `SAME_FAILURES` equal failures."""
        if not isinstance(outcome, Failure) or outcome not in self._failures[-1:]:
            self._failures.clear()
        if isinstance(outcome, Failure):
            self._failures.append(outcome)
        if len(self._failures) >= self.most_failures:
            raise SearchError(
                f"The last {len(self._failures)} candidates failed in the same way "
                f"({outcome_text(self._failures[-1])}), so the search has stopped; remove the "
                "cause, then go on with `evomerge resume`."
            )


@dataclass(eq=False)
class _Queue:
    """Candidates that are made jobs when the executor has room.

    Attributes:
        held: those that wait while an equal one is scored.
        running: number of a candidate -> the candidate, while its job runs.
    """

    session: Session
    candidates: Iterator[Candidate]
    split: Split
    held: list[Candidate] = field(default_factory=list)
    running: dict[int, Candidate] = field(default_factory=dict)
    _ready: deque[Candidate] = field(default_factory=deque)

    def jobs(self) -> Iterator[Job]:
        """Yield jobs until there is nothing to score now.

        The executor pulls them one by one, so the next job may depend on outcomes that were
        recorded since the last one.
        """
        candidates = iter(self._next, None) if self.split == "search" else self.candidates
        for candidate in candidates:
            self.running[candidate.number] = candidate
            yield self.session.job(candidate, self.split)

    def _next(self) -> Candidate | None:
        """Return the next candidate without scores; those with the recipe of an open one wait."""
        while True:
            if not self._ready:
                candidate = next(self.candidates, None)
                if candidate is None:
                    return None
                self._ready, self.held = deque([*self.held, candidate]), []
            if self.session.logbook.is_stopping:
                return None
            candidate = self._ready.popleft()
            if candidate.first_outcome is not None or self.session.take_scores(candidate):
                continue
            if not self.session.is_held(candidate):
                return candidate
            self.held.append(candidate)


def outcome_text(failure: Failure) -> str:
    """Return a failure as `stage: reason`."""
    return f"{failure.stage}: {failure.reason.rstrip('.')}"
