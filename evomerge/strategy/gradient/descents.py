"""Gradient descent on merge knobs, as a strategy: candidates are the points that descents reach.

    repeat
        every descent makes a chunk: a few steps of Adam against the gradient of the loss
        every point that was reached is a candidate, scored on the metric

Merge weights are learned by gradients as in AdaMerging (arXiv 2310.02575), aTLAS (2407.02880) and
SuperMerge (2412.10416); the points are candidates like all others. A share of the search documents
is only watched: a descent ends early once the loss on these has not fallen for some chunks.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from operator import mul

from evomerge.evaluation.inference.rows import Forms
from evomerge.optimize.descent import Chunk, Descent, Reached
from evomerge.recipe import Recipe
from evomerge.scores import Outcome, Scores
from evomerge.space.baselines import UNIFORM
from evomerge.space.protocol import Genome, Space
from evomerge.strategy.gradient.lessons import Lesson, Lessons
from evomerge.strategy.protocol import Origin

STEPS = 60  # of a descent, if the search file does not say it
BATCH = 16  # documents of a step, likewise
RATE = 0.03  # length of the first steps, likewise
CHUNK = 10  # steps between two candidates of a descent
PATIENCE = 2  # chunks in a row that do not lower the watched loss, after which a descent ends
MOSTLY = 0.8  # what one objective weighs more than the others, in descents that prefer it
NOISE = 0.1  # standard deviation of the noise on a later start, as a share of the range


@dataclass
class _Line:
    """One descent, with its number in the search.

    Attributes:
        preference: the weight of each objective; empty: those of the search file.
        lowest: the lowest loss on the watched documents so far.
        worse: chunks in a row that did not lower it.
        forms: how answers are written, as its last chunk has found it.
        is_reached: whether the chunk of this round is done.
    """

    number: int
    descent: Descent
    lesson: Lesson
    preference: tuple[float, ...] = ()
    lowest: float = math.inf
    worse: int = 0
    forms: Forms = field(default_factory=dict)
    is_reached: bool = False


@dataclass(eq=False)
class GradientStrategy:
    """One or several descents at once.

    Attributes:
        lessons: what descents learn.
        values: returns the values of scores that are maximised (`Ranking.ordered`).
        violation: returns by how much a candidate breaks constraints, 0 if it breaks none.
        steps: number of steps of a descent.
        batch: documents of a step, of all tasks together.
        rate: length of a first step, as a share of a gene's range.
        descents: number of descents at once.
        forms: how reference answers are written; where no form is given, as the parents prefer.
        weighed: number of objectives, if there is a front: then each descent weighs them
            differently. 0: all as the search file says.
    """

    space: Space
    lessons: Lessons
    values: Callable[[Scores], tuple[float, ...]]
    violation: Callable[[Scores], float] = lambda scores: 0.0
    _: KW_ONLY
    steps: int = STEPS
    batch: int = BATCH
    rate: float = RATE
    descents: int = 1
    forms: Forms = field(default_factory=dict)
    weighed: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        self._labels: dict[int, str] = {}
        self._left = 0
        """Points of this round that were not proposed yet; 0 until the next round begins."""
        self._points: dict[int, tuple[Genome, tuple[float, ...], float]] = {}
        """Candidate -> its genome, what is maximised, and its violation, if it is scored."""
        self._genomes: dict[int, Genome] = {}
        self._lines: list[_Line] = []
        self._begun = 0

    @property
    def generation(self) -> int:
        """The number of descents at once."""
        return self.descents

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

    def chunks(self) -> dict[int, Chunk]:
        """Return the chunks that must be made before `ask`, by the place of the descent."""
        self._begin_round()
        return {
            place: self._chunk(line)
            for place, line in enumerate(self._lines)
            if not line.is_reached
        }

    def reach(self, place: int, reached: Reached) -> None:
        """Take the result of a chunk."""
        self._begin_round()
        line = self._lines[place]
        line.descent, line.forms, line.is_reached = reached.descent, reached.forms, True
        value = math.inf if reached.watched is None else reached.watched
        line.worse = line.worse + 1 if line.lesson.watched and not value < line.lowest else 0
        line.lowest = min(line.lowest, value)

    def ask(self, number: int) -> tuple[Recipe, Origin]:
        """Propose the next point of the round."""
        line = self._lines[self.generation - self._left]
        genome = line.descent.genome
        origin = {"genome": list(genome), "descent": line.number, "steps": line.descent.done}
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
            point = self._genomes[number], self.values(outcome), self.violation(outcome)
            self._points[number] = point

    def _begin_round(self) -> None:
        """Begin a round, if all points of the last one are proposed; ended descents begin anew."""
        if self._left:
            return
        self._left = self.generation
        for line in reversed(self._lines):  # in this order whichever chunk was done first
            self.forms = {**self.forms, **line.forms}
        for place in range(self.generation):
            if place == len(self._lines):
                self._lines.append(self._new_line())
            elif self._is_over(self._lines[place]):
                self._lines[place] = self._new_line()
            self._lines[place].is_reached = False

    def _is_over(self, line: _Line) -> bool:
        return line.descent.done >= self.steps or line.worse >= PATIENCE

    def _new_line(self) -> _Line:
        lesson = self.lessons.next()
        number, self._begun = self._begun, self._begun + 1
        preference = self._preference(number)
        return _Line(number, Descent.at(self._start(number, preference)), lesson, preference)

    def _preference(self, number: int) -> tuple[float, ...]:
        """Return the weights of a descent: equal, then mostly one objective, then any."""
        count = self.weighed
        if not count:
            return ()
        if number == 0:
            return (1 / count,) * count
        if number <= count:
            return tuple((1 - MOSTLY) / count + MOSTLY * (n == number - 1) for n in range(count))
        draws = random.Random(f"{self.seed} preference {number}")
        weights = [draws.expovariate(1) for _ in range(count)]
        return tuple(value / sum(weights) for value in weights)

    def _ranked(self, preference: Sequence[float]) -> list[Genome]:
        """Return the genomes that are scored, the best first: those that keep all constraints.

        With a preference, values count as shares of their ranges, with these weights.
        """
        columns = list(zip(*(values for _, values, _ in self._points.values()), strict=True))
        scales = [1.0] * len(columns)
        if preference and columns:
            ranges = [(max(column) - min(column)) or 1.0 for column in columns]
            scales = [weight / size for weight, size in zip(preference, ranges, strict=True)]

        def rank(number: int) -> tuple[float, float, int]:
            _, values, broken = self._points[number]
            return broken, -math.fsum(map(mul, scales, values)), number

        return [self._points[number][0] for number in sorted(self._points, key=rank)]

    def _start(self, number: int, preference: Sequence[float]) -> Genome:
        """Return where a descent begins: at the uniform merge; later between the two best points.

        Each gene is taken from one of these, and moved a little.
        """
        genes = self.space.genes
        if number == 0:
            uniform = self.space.baseline_genomes().get(UNIFORM)
            return tuple(uniform[0]) if uniform else tuple(gene.start for gene in genes)
        draws = random.Random(f"{self.seed} start {number}")
        best = self._ranked(preference)[:2] or [self._start(0, ())]
        genome = []
        for index, gene in enumerate(genes):
            value = draws.choice(best)[index]
            if gene.kind == "real":
                value += draws.gauss(0, NOISE * (gene.high - gene.low))
                value = min(gene.high, max(gene.low, value))
            genome.append(value)
        return tuple(genome)

    def _chunk(self, line: _Line) -> Chunk:
        done, lesson = line.descent.done, line.lesson
        share, batches = max(1, self.batch // len(lesson.learned)), []
        for step in range(done, min(done + CHUNK, self.steps)):
            draws = random.Random(f"{self.seed} batch {line.number} {step}")
            batches.append(
                {
                    task: tuple(sorted(draws.sample(ids, min(share, len(ids)))))
                    for task, ids in lesson.learned.items()
                }
            )
        documents = {
            task: (*lesson.learned[task], *lesson.watched.get(task, ())) for task in lesson.teachers
        }
        return Chunk(
            descent=line.descent,
            recipe=self.space.decode(line.descent.genome),
            batches=tuple(batches),
            watched=lesson.watched,
            rate=self.rate,
            steps=self.steps,
            forms=self.forms,
            answers=lesson.answers,
            teachers=lesson.teachers,
            lesson=documents,
            weights=line.preference,
        )
