"""Search over genomes: an optimizer proposes genomes, a space turns them into recipes.

Many genomes may give one recipe: in a space of slots only the sign of most genes counts. A recipe
is proposed once; with fresh documents, once in a generation, since each has other documents. If the
optimizer comes back to it, it is told the known outcome at once, or as soon as there is one, and
asked again. So it goes on as if the recipe had been scored again, but no candidate is spent.
"""

import itertools
import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from evomerge.optimize.protocol import Believing, Optimizer, with_replay
from evomerge.recipe import Recipe
from evomerge.run.ranking import Ranking
from evomerge.scores import Outcome, Scores, violation
from evomerge.space.protocol import Genome, Space
from evomerge.strategy.protocol import Origin

log = logging.getLogger(__name__)


SKIPPED_RECIPES = 100
"""So many proposals of known recipes are skipped in a row. Then one is a candidate again: the space
may have no other recipes, or the optimizer may have converged."""

SKIPPED = "skipped"
"""Key in an origin: how many proposals of known recipes came before it, if any."""


@dataclass
class _Known:
    """What the optimizer was told of a recipe (values, violation), and genomes that wait for it."""

    outcome: tuple[tuple[float, ...] | None, float] | None = None
    waiting: list[Genome] = field(default_factory=list)


@dataclass(eq=False)
class GenomeStrategy:
    """The strategy that consists of a space and an optimizer.

    Origins are `{"genome": [...]}`, with `skipped` if known recipes came before it, or with
    `others`, the further genomes of a baseline.

    Attributes:
        ranking: gives the values that the optimizer maximises, and the constraints.
        start: genomes that are proposed first, after the baselines.
        is_fresh: whether each generation has documents of its own, so that a known recipe is
            proposed again rather than skipped.
    """

    space: Space
    optimizer: Optimizer
    ranking: Ranking
    _: KW_ONLY
    start: Sequence[Genome] = ()
    is_fresh: bool = False

    def __post_init__(self) -> None:
        self.optimizer = with_replay(self.optimizer)
        self._baselines, self._start = self.space.baseline_genomes(), deque(self.start)
        self._open: dict[int, list[tuple[Genome, str]]] = {}
        """The genome of each candidate without outcome, and the digest of its recipe; a baseline
        may have several."""
        self._known: dict[str, _Known] = {}
        self._asked: set[int] = set()
        """Hashes of the optimizer's genomes; the genomes would take gigabytes."""
        self._proposed = self._complete = 0
        self._has_begun = self._has_warned = False

    @property
    def generation(self) -> int:
        """The population of the optimizer."""
        return self.optimizer.population

    @property
    def left(self) -> int:
        """Number of genomes that the current generation of the optimizer still lacks.

        Baselines, and the genomes of the start together, come before the first generation. Known
        recipes count into a generation.
        """
        complete, of_next = divmod(self._proposed, self.generation)
        if complete > self._complete:  # the last candidate may be of the next generation already
            return self.generation
        return self.generation - of_next + (len(self._start) if self._has_begun else 0)

    def add_baseline(self, number: int, label: str) -> Origin:
        """Propose the genomes of a baseline, if the space has any; each is told its outcome."""
        genomes = [list(genome) for genome in self._baselines.get(label, ())]
        origin: dict[str, Any] = {"genome": genomes[0]} if genomes else {}
        origin |= {"others": genomes[1:]} if genomes[1:] else {}
        self.repeat(number, label, origin)
        return origin

    def ask(self, number: int) -> tuple[Recipe, Origin]:
        """Propose the next genome of the start; after these, the optimizer's."""
        self._has_begun, self._complete = True, self._proposed // self.generation
        for skipped in itertools.count():
            genome, is_repeat = self._next()
            recipe = self.space.decode(genome)
            # An optimizer proposes a genome again only if it finds no other one.
            is_known = recipe.digest in self._known and not self.is_fresh
            if not is_known or is_repeat or skipped == SKIPPED_RECIPES:
                break
            self._skip(genome, recipe.digest)
        self._note(number, genome, recipe.digest)
        origin = {"genome": list(genome)}
        return recipe, origin | {SKIPPED: skipped} if skipped else origin

    def believed(self) -> tuple[Recipe, Origin]:
        """Return the recipe of the genome that the optimizer believes in; see `Believing`."""
        assert isinstance(self.optimizer, Believing)
        genome = self.optimizer.believed()
        return self.space.decode(genome), {"genome": list(genome)}

    def repeat(self, number: int, label: str | None, origin: Origin) -> None:
        """Propose the same genome again, whatever this machine computes: it is what was scored."""
        if "genome" not in origin:
            return
        genome, *others = (
            tuple(map(float, it)) for it in (origin["genome"], *origin.get("others", ()))
        )
        if label is None:
            self._has_begun, self._complete = True, self._proposed // self.generation
            # What was skipped is repeated by number: another machine might skip others.
            for _ in range(origin.get(SKIPPED, 0)):
                computed, _ = self._next()
                self._skip(computed, self.space.decode(computed).digest)
            computed, _ = self._next(genome)
            if computed != genome and not self._has_warned:
                self._has_warned = True
                log.warning(
                    "This machine computes a genome that differs by up to %.2g from the recorded "
                    "one; the recorded genomes are used, and the search goes on.",
                    max(abs(new - old) for new, old in zip(computed, genome, strict=True)),
                )
        for each in (genome, *others):
            self._note(number, each, self.space.decode(each).digest)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Tell the optimizer the values of a candidate, or that it has none."""
        values, broken = None, 0.0
        if isinstance(outcome, Scores) and number in self._open:
            values = self.ranking.ordered(outcome)
            broken = violation(self.ranking.constraints, outcome)
            values = values if all(map(math.isfinite, values)) else None
        for genome, digest in self._open.pop(number, ()):
            known = self._known[digest]
            known.outcome = values, broken
            for each in (genome, *known.waiting):
                self.optimizer.tell(each, values, broken)
            known.waiting.clear()

    def _next(self, recorded: Genome | None = None) -> tuple[Genome, bool]:
        """Return the next genome, and whether the optimizer has proposed it before."""
        if self._start:
            return self._start.popleft(), False
        self._proposed += 1
        ask, replay = self.optimizer.ask, self.optimizer.replay
        genome = ask() if recorded is None else replay(recorded)
        is_repeat = hash(genome) in self._asked
        self._asked.add(hash(genome if recorded is None else recorded))
        return genome, is_repeat

    def _skip(self, genome: Genome, digest: str) -> None:
        """Tell the optimizer the outcome of a known recipe, or let the genome wait for it."""
        # On another machine the recipe may be an unknown one; then the genome is never told.
        known = self._known.get(digest, _Known())
        if known.outcome is None:
            known.waiting.append(genome)
        else:
            self.optimizer.tell(genome, *known.outcome)

    def _note(self, number: int, genome: Genome, digest: str) -> None:
        self._open.setdefault(number, []).append((genome, digest))
        self._known.setdefault(digest, _Known())
