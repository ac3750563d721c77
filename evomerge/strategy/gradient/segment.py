"""A segment: some steps of a descent, made by one worker. Its result is one line of the journal.

In each step the model of the descent's genome is built, and the genes move against the gradient of
its loss on a batch of documents. These are part of the segment, so any worker makes the same steps.
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

from pydantic import TypeAdapter

from evomerge.device import is_exhausted
from evomerge.errors import CandidateError, SearchError
from evomerge.evaluation.inference.rows import Form, Forms
from evomerge.evaluation.loss import AnswerKey, Loss
from evomerge.evaluation.tasks.objective import Documents
from evomerge.execute.protocol import Job, WorkResult
from evomerge.merging.gradients import FACTOR, Gradients, KnobOf, Slopes, knob_changes
from evomerge.merging.resident import Resident
from evomerge.recipe import Recipe
from evomerge.scores import Failure
from evomerge.space.baselines import alone
from evomerge.space.protocol import Genome, Space
from evomerge.strategy.gradient.descent import Descent
from evomerge.strategy.gradient.lessons import Lesson

if TYPE_CHECKING:
    from evomerge.execute.worker import Worker

SHIFT = 0.02
"""How far genes are moved to find how they move the knobs, as a share of their ranges."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Some steps of a descent, made by one worker; see `evomerge.execute.protocol.Work`.

    Attributes:
        descent: where they begin; `recipe` is that of its genome.
        lesson: what the descent learns.
        batches: for each step, the ids of its documents, by task.
        rate, steps: see `Descent.step`.
        forms: how generated answers are written; where no form is given, as the parents prefer.
        weights: what each objective counts in the loss; empty: as the search file weighs them.
        watches: whether the loss on the watched documents is computed after the last step.
    """

    phase: ClassVar[str] = "descend"

    descent: Descent
    recipe: Recipe
    lesson: Lesson
    batches: tuple[Mapping[str, tuple[int, ...]], ...]
    rate: float
    steps: int
    forms: Forms = field(default_factory=dict)
    weights: tuple[float, ...] = ()
    watches: bool = True

    def run(self, worker: Worker) -> dict[str, Any]:
        """Make the steps in a worker; return a `SegmentResult` as plain data."""
        return asdict(worker.keep(Stepper.of).make(self))

    def failed(self, why: str) -> dict[str, Any]:
        """Return the result if the steps could not be made: the descent stays, but is slower."""
        log.warning("A segment of a descent was not made (%s).", why)
        descent = self.descent
        for _ in self.batches:
            descent = descent.failed_step()
        return asdict(SegmentResult(descent, (None,) * len(self.batches), None, self.forms))

    def cost(self, worker: Worker, steps: int | None = None) -> dict[str, Any]:
        """Return the time and memory of its first steps, or of all; see `Work`.

        SearchError: they cannot be made.
        """
        # The first step finds the forms, and makes what later ones keep.
        first = replace(self, batches=self.batches[:1], watches=False)
        others = replace(self, batches=self.batches[:steps], watches=steps is None)
        forms = self.forms
        for segment in (first, others):
            outcome = worker(Job(0, self.recipe, work=replace(segment, forms=forms)))
            if isinstance(outcome, Failure):
                raise SearchError(
                    f"The descent that was tried failed in {outcome.stage!r}: {outcome.reason}"
                )
            assert isinstance(outcome, WorkResult)
            forms = SegmentResult.read(outcome.fields).forms
        seconds = outcome.seconds[self.phase] / len(segment.batches)
        return {"step_seconds": seconds, "forms": forms, "peak_bytes": outcome.peak}


@dataclass(frozen=True)
class SegmentResult:
    """What came out of a segment; the journal keeps it as plain data.

    Attributes:
        descent: where it ended.
        losses: the loss before each step, in nats a document; None for a step that failed.
        watched: the loss on the watched documents after the last step; None: it is not finite, or
            no documents are watched.
        forms: how generated answers are written, as the first segments have found it.
    """

    descent: Descent
    losses: tuple[float | None, ...]
    watched: float | None
    forms: Forms = field(default_factory=dict)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> SegmentResult:
        """Return the result in plain data."""
        return TypeAdapter(cls).validate_python(data)


Sources: TypeAlias = tuple[tuple[str, tuple[tuple[str, int | None], ...]], ...]
"""The method of each layer of a recipe, and the parents and layers that it is made from."""


def sources_of(recipe: Recipe) -> Sources:
    """Return what a recipe merges from what: all of it but knobs, scales and the seed."""
    return tuple(
        (layer.method, tuple((source.parent, source.layer) for source in layer.inputs))
        for layer in recipe.every_layer()
    )


class Stepper:
    """Makes the steps of segments, with what it has learned of the space by those before."""

    def __init__(self, space: Space, resident: Resident, loss: Loss) -> None:
        self.space, self.resident, self.loss = space, resident, loss
        self._gradients = Gradients(resident, len(space.genes))
        self._owners: dict[Sources, Mapping[KnobOf, int]] = {}
        """What is merged from what -> which gene moves a knob, if one alone does."""

    @classmethod
    def of(cls, worker: Worker) -> Self:
        """Return the stepper of a worker's resident model."""
        problem = worker.problem
        loss = Loss(worker.evaluator, problem.objectives)
        return cls(problem.space, worker.resident(), loss)

    def make(self, segment: Segment) -> SegmentResult:
        """Make the steps of a segment; forms of answers it lacks are those that baselines prefer.

        EvomergeError: something other than the genome is at fault.
        """
        descent, losses, loss = segment.descent, list[float | None](), self.loss
        lesson = segment.lesson
        key = AnswerKey(lesson.answers, segment.forms, segment.weights)
        for task, recipe in lesson.teachers.items():
            taught = (*lesson.learned[task], *lesson.watched.get(task, ()))
            loss.teach(task, recipe.digest, taught, partial(self.resident.apply, recipe))
        asked = {t: ids for t, ids in segment.batches[0].items() if t not in lesson.teachers}
        if unknown := loss.without_form(asked, key.forms):
            key = replace(key, forms={**key.forms, **self._forms(segment.recipe, unknown, key)})
        rates = self._rates(descent.genome)
        have_factors = any(key == FACTOR for of in rates.values() for _, key, _ in of)
        for number, documents in enumerate(segment.batches):
            if have_factors and number:  # one is a product of scales, which moves with all of them
                rates = self._rates(descent.genome)
            try:
                recipe = self.space.decode(descent.genome)
                gradient, value = self._step(recipe, rates, documents, key)
            except CandidateError:  # the loss or a merged weight is not finite
                descent = descent.failed_step()
                losses.append(None)
            else:
                rate, steps = segment.rate, segment.steps
                descent = descent.step(gradient, self.space.genes, rate=rate, steps=steps)
                losses.append(value)
        watched = None
        if segment.watches and lesson.watched:
            with contextlib.suppress(CandidateError):
                model = self.resident.apply(self.space.decode(descent.genome))
                watched = loss(model, lesson.watched, key)
        return SegmentResult(descent, tuple(losses), watched, key.forms)

    def _step(
        self, recipe: Recipe, rates: Slopes, documents: Documents, key: AnswerKey
    ) -> tuple[list[float], float]:
        """Return gradient and loss at a recipe; if memory runs out, with less from then on."""
        try:
            with self._gradients.of(recipe, rates) as (model, gradient):
                value = self.loss.backward(model, documents, key)
        except RuntimeError as error:
            if not (is_exhausted(error) and self.loss.save_memory()):
                raise
            return self._step(recipe, rates, documents, key)
        return gradient, value

    def _forms(self, recipe: Recipe, documents: Documents, key: AnswerKey) -> dict[str, Form]:
        """Return the form of each task's answers that a parent or the base finds most likely."""
        recipes = list(self.space.baselines().values())
        if (base := recipe.head.base) is not None:
            recipes.append(alone(base.parent, recipes[-1]))

        def models() -> Iterator[Any]:
            for recipe in recipes:
                with contextlib.suppress(CandidateError):
                    yield self.resident.apply(recipe)

        return self.loss.choose_forms(models(), documents, key)

    def _rates(self, genome: Genome) -> Slopes:
        """Return how fast the real genes move knobs at a genome.

        To find which knobs each gene moves, it is moved alone. If each knob then belongs to one
        gene, they are all moved at once from then on, where this changes nothing but knobs.
        """
        ends = dict[int, tuple[float, float]]()
        for number, (gene, value) in enumerate(zip(self.space.genes, genome, strict=True)):
            shift = SHIFT * (gene.high - gene.low)
            if gene.kind == "real":
                ends[number] = max(gene.low, value - shift), min(gene.high, value + shift)

        def moved(genes: Collection[int]) -> list[Recipe]:
            return [
                self.space.decode(
                    tuple(ends[i][side] if i in genes else value for i, value in enumerate(genome))
                )
                for side in (0, 1)
            ]

        def changes(recipes: list[Recipe]) -> dict[KnobOf, float]:
            return knob_changes(self.resident.planner, *recipes)

        here, all_moved = sources_of(self.space.decode(genome)), moved(ends)
        owners = self._owners.get(here)
        is_plain = owners is not None and all(sources_of(recipe) == here for recipe in all_moved)
        together = changes(all_moved) if is_plain else {}
        if owners and together.keys() == owners.keys():
            moves = [(owners[knob], knob, change) for knob, change in together.items()]
        else:
            moves = [
                (i, knob, change) for i in ends for knob, change in changes(moved([i])).items()
            ]
            owners = {knob: number for number, knob, _ in moves}
            if len(owners) == len(moves):
                self._owners[here] = owners
        rates = defaultdict(list)
        for number, (tensor, key), change in moves:
            low, high = ends[number]
            rates[tensor].append((number, key, change / (high - low)))
        return rates
