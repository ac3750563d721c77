"""Gradient descent on merge knobs, as a strategy: candidates are points of descents.

    repeat
        every descent makes a segment: a few steps of Adam against the gradient of the loss
        every point where a segment ends is a candidate, scored on the metric

Merge weights are learned by gradients as in AdaMerging (arXiv 2310.02575), aTLAS (2407.02880) and
SuperMerge (2412.10416); the points are candidates like all others. A share of the search documents
is only watched: a descent ends early once the loss on these has not fallen for some segments.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from operator import mul
from typing import TYPE_CHECKING, Any

from evomerge.evaluation.inference.rows import Forms
from evomerge.recipe import Recipe
from evomerge.scores import Outcome, Scores, violation
from evomerge.space.baselines import UNIFORM
from evomerge.space.protocol import Genome, Space
from evomerge.strategy.gradient.descent import BATCH, RATE, SEGMENT, STEPS, Descent
from evomerge.strategy.gradient.lessons import Lesson, Lessons
from evomerge.strategy.gradient.segment import Segment, SegmentResult
from evomerge.strategy.protocol import Origin

if TYPE_CHECKING:
    from evomerge.run.ranking import Ranking

PATIENCE = 2  # segments in a row that do not lower the watched loss, after which a descent ends
MOSTLY = 0.8  # what one objective weighs more than the others, in descents that are mostly for it
NOISE = 0.1  # standard deviation of the noise on a later start, as a share of the range


@dataclass
class _Slot:
    """One of the descents at once; when it has ended, another one takes its slot.

    Attributes:
        number: that of the descent in the search.
        weights: the weight of each objective; empty: those of the search file.
        lowest: the lowest loss on the watched documents so far.
        worse: segments in a row that did not lower it.
        forms: how answers are written, as its last segment has found it.
        is_done: whether the segment of this round is made.
    """

    number: int
    descent: Descent
    lesson: Lesson
    weights: tuple[float, ...] = ()
    lowest: float = math.inf
    worse: int = 0
    forms: Forms = field(default_factory=dict)
    is_done: bool = False


@dataclass(eq=False)
class GradientStrategy:
    """One or several descents at once.

    Attributes:
        lessons: what descents learn.
        ranking: what compares candidates; if it has a front, descents weigh objectives differently.
        steps: number of steps of a descent.
        batch: documents of a step, of all tasks together.
        rate: length of a first step, as a share of a gene's range.
        generation: number of descents at once.
        forms: how reference answers are written; where no form is given, as the parents prefer.
    """

    space: Space
    lessons: Lessons
    ranking: Ranking
    _: KW_ONLY
    steps: int = STEPS
    batch: int = BATCH
    rate: float = RATE
    generation: int = 1
    forms: Forms = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        self._labels: dict[int, str] = {}
        self._left = 0
        """Points of this round that were not proposed yet; 0 until the next round begins."""
        self._points: dict[int, tuple[Genome, tuple[float, ...], float]] = {}
        """Candidate -> its genome, what is maximised, and its violation, if it is scored."""
        self._genomes: dict[int, Genome] = {}
        self._slots: list[_Slot] = []
        self._begun = 0

    @property
    def left(self) -> int:
        """Number of points of this round that were not proposed yet."""
        return self._left or self.generation

    def add_baseline(self, number: int, label: str) -> Origin:
        """Note the genome of a baseline, if the space has one for it."""
        genomes = self.space.baseline_genomes().get(label, ())
        origin = {"genome": list(genomes[0])} if genomes else {}
        self.repeat(number, label, origin)
        return origin

    def preparations(self) -> dict[int, Segment]:
        """Return the segments that must be made before `ask`, by slot."""
        self._begin_round()
        slots = enumerate(self._slots)
        return {number: self._segment(slot) for number, slot in slots if not slot.is_done}

    def prepared(self, slot: int, result: Mapping[str, Any]) -> None:
        """Take the result of a segment."""
        self._begin_round()
        made, own = SegmentResult.read(result), self._slots[slot]
        own.descent, own.forms, own.is_done = made.descent, made.forms, True
        loss = math.inf if made.watched is None else made.watched
        own.worse = own.worse + 1 if own.lesson.watched and not loss < own.lowest else 0
        own.lowest = min(own.lowest, loss)

    def ask(self, number: int) -> tuple[Recipe, Origin]:
        """Propose the next point of the round."""
        slot = self._slots[self.generation - self._left]
        genome = slot.descent.genome
        origin = {"genome": list(genome), "descent": slot.number, "steps": slot.descent.done}
        self.repeat(number, None, origin)
        return self.space.decode(genome), origin

    def repeat(self, number: int, label: str | None, origin: Origin) -> None:
        """Repeat an `add_baseline` or an `ask`."""
        if label is not None:
            self._labels[number] = label
        else:
            self._left -= 1
        if "genome" in origin:
            self._genomes[number] = tuple(map(float, origin["genome"]))

    def tell(self, number: int, outcome: Outcome) -> None:
        """Note the fitness of a candidate; later descents begin near good ones."""
        if not isinstance(outcome, Scores):
            return
        self.lessons.add(self._labels.get(number), outcome)
        if number in self._genomes:
            values = self.ranking.ordered(outcome)
            broken = violation(self.ranking.constraints, outcome)
            self._points[number] = self._genomes[number], values, broken

    def _begin_round(self) -> None:
        """Begin a round, if all points of the last one are proposed; ended descents begin anew."""
        if self._left:
            return
        self._left = self.generation
        for slot in reversed(self._slots):  # in this order whichever segment was done first
            self.forms = {**self.forms, **slot.forms}
            slot.is_done = False
        for number in range(self.generation):
            if number == len(self._slots) or self._is_over(self._slots[number]):
                self._slots[number : number + 1] = [self._begun_slot()]

    def _is_over(self, slot: _Slot) -> bool:
        return slot.descent.done >= self.steps or slot.worse >= PATIENCE

    def _begun_slot(self) -> _Slot:
        """Return a slot with a new descent."""
        lesson = self.lessons.next()
        number, self._begun = self._begun, self._begun + 1
        weights = self._weights(number)
        return _Slot(number, Descent.at(self._start(number, weights)), lesson, weights)

    def _weights(self, number: int) -> tuple[float, ...]:
        """Return the weights of a descent: equal, then mostly one objective, then any."""
        if not self.ranking.has_front:
            return ()
        count = len(self.ranking.objectives)
        if number == 0:
            return (1 / count,) * count
        if number <= count:
            return tuple((1 - MOSTLY) / count + MOSTLY * (n == number - 1) for n in range(count))
        draws = random.Random(f"{self.seed} preference {number}")
        weights = [draws.expovariate(1) for _ in range(count)]
        return tuple(value / sum(weights) for value in weights)

    def _ranked(self, weights: Sequence[float]) -> list[Genome]:
        """Return the genomes that are scored, the best first: those that keep all constraints.

        With weights, values count as shares of their ranges.
        """
        columns = list(zip(*(values for _, values, _ in self._points.values()), strict=True))
        scales = [1.0] * len(columns)
        if weights and columns:
            ranges = [(max(column) - min(column)) or 1.0 for column in columns]
            scales = [weight / size for weight, size in zip(weights, ranges, strict=True)]

        def rank(number: int) -> tuple[float, float, int]:
            _, values, broken = self._points[number]
            return broken, -math.fsum(map(mul, scales, values)), number

        return [self._points[number][0] for number in sorted(self._points, key=rank)]

    def _start(self, number: int, weights: Sequence[float]) -> Genome:
        """Return where a descent begins: at the uniform merge; later between the two best points.

        Each gene is taken from one of these, and moved a little.
        """
        genes = self.space.genes
        if number == 0:
            uniform = self.space.baseline_genomes().get(UNIFORM)
            return tuple(uniform[0]) if uniform else tuple(gene.start for gene in genes)
        draws = random.Random(f"{self.seed} start {number}")
        best = self._ranked(weights)[:2] or [self._start(0, ())]
        genome = []
        for index, gene in enumerate(genes):
            value = draws.choice(best)[index]
            if gene.kind == "real":
                value += draws.gauss(0, NOISE * (gene.high - gene.low))
                value = min(gene.high, max(gene.low, value))
            genome.append(value)
        return tuple(genome)

    def _segment(self, slot: _Slot) -> Segment:
        done, learned, batches = slot.descent.done, slot.lesson.learned, []
        share = max(1, self.batch // len(learned))
        for step in range(done, min(done + SEGMENT, self.steps)):
            draws = random.Random(f"{self.seed} batch {slot.number} {step}")
            batches.append(
                {
                    task: tuple(sorted(draws.sample(ids, min(share, len(ids)))))
                    for task, ids in learned.items()
                }
            )
        return Segment(
            descent=slot.descent,
            recipe=self.space.decode(slot.descent.genome),
            lesson=slot.lesson,
            batches=tuple(batches),
            rate=self.rate,
            steps=self.steps,
            forms=self.forms,
            weights=slot.weights,
        )
