"""Search over genomes: an optimizer proposes genomes, a space turns them into recipes.

Many genomes may give one recipe: in a space of slots only the sign of most genes counts. A recipe
is proposed once. If the optimizer comes back to it, it is told the known outcome at once, or as
soon as there is one, and asked again. So it goes on as if the recipe had been scored again, but no
candidate is spent.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from evomerge.optimize.protocol import Optimizer
from evomerge.scores import Outcome, Scores
from evomerge.space.protocol import Genome, Space
from evomerge.strategy.protocol import Origin, Proposal

log = logging.getLogger(__name__)


SKIPPED_RECIPES = 100
"""So many proposals of known recipes are skipped in a row. Then one is a candidate again: the space
may have no other recipes, or the optimizer may have converged."""

SKIPPED = "skipped"
"""Key in an origin: how many proposals of known recipes came before it, if any."""


@dataclass
class _TriedRecipe:
    """What is known about a recipe that was proposed."""

    told: tuple[tuple[float, ...] | None, float] | None = None
    """The values and the violation that the optimizer was told, if there is an outcome."""
    waiting: list[int] = field(default_factory=list)
    """Further trials of the recipe, which wait for its outcome."""


class GenomeStrategy:
    """The strategy that consists of a space and an optimizer.

    Origins are `{"genome": [...]}`, with `skipped` if known recipes came before it, or with
    `others`, the further genomes of a baseline.

    Args:
        values: returns the values that the optimizer maximises (`Ranking.ordered`).
        violation: returns by how much a candidate breaks constraints, 0 if it breaks none.
        start: genomes that are proposed first, after the baselines.
    """

    def __init__(
        self,
        space: Space,
        optimizer: Optimizer,
        values: Callable[[Scores], tuple[float, ...]],
        violation: Callable[[Scores], float] = lambda scores: 0.0,
        start: Sequence[Genome] = (),
    ) -> None:
        self.space, self.optimizer = space, optimizer
        self._values, self._violation = values, violation
        self._baselines = space.baseline_genomes()
        self._start = start
        self._candidates: dict[int, list[tuple[int, str]]] = {}
        """Trial and digest of each candidate; a baseline may have several."""
        self._tries: dict[str, _TriedRecipe] = {}
        self._genomes: set[int] = set()
        """Hashes of the genomes that were tried; the genomes would take gigabytes."""
        self._proposed = self._complete = self._starting = 0
        self._warned = False

    @property
    def generation(self) -> int:
        """The population of the optimizer."""
        return self.optimizer.population

    @property
    def left(self) -> int:
        """Number of trials that the current generation of the optimizer still lacks.

        Baselines, and the genomes of the start together, come before the first generation. Known
        recipes count into a generation, so most have fewer candidates where there are many of them.
        """
        complete, of_next = divmod(self._proposed, self.generation)
        if complete > self._complete:  # the last candidate may be of the next generation already
            return self.generation
        return self._starting + self.generation - of_next

    def add_baseline(self, number: int, label: str) -> Origin:
        """Propose the genomes of a baseline, if the space has any for it.

        If there are several, the optimizer is told the outcome for each of them; the origin has
        those after the first as `others`.
        """
        genomes = self._baselines.get(label, ())
        if not genomes:
            return {}
        self._propose_baseline(number, genomes)
        origin = {"genome": list(genomes[0])}
        return origin | ({"others": list(map(list, genomes[1:]))} if genomes[1:] else {})

    def ask(self, number: int) -> Proposal:
        """Propose the next genome of the start; after these, the optimizer's."""
        self._begin()
        for skipped in itertools.count():
            trial, genome = self._next_trial()
            recipe = self.space.decode(genome)
            # An optimizer proposes a genome again only if it finds no other one.
            is_new = recipe.digest not in self._tries or hash(genome) in self._genomes
            if is_new or skipped == SKIPPED_RECIPES:
                break
            self._skip(trial, genome, recipe.digest)
        self._note(number, trial, genome, recipe.digest)
        origin = {"genome": list(genome)}
        return Proposal(recipe, origin | {SKIPPED: skipped} if skipped else origin)

    def repeat(self, number: int, label: str | None, origin: Origin) -> None:
        """Propose the same genome again.

        Another machine may compute a slightly different one; the recorded one counts, since it
        is what was scored.
        """
        if "genome" not in origin:
            return
        genome = tuple(map(float, origin["genome"]))
        if label is not None:
            others = [tuple(map(float, other)) for other in origin.get("others", ())]
            self._propose_baseline(number, [genome, *others])
            return
        self._begin()
        # What was skipped is repeated by number: another machine might skip others.
        for _ in range(origin.get(SKIPPED, 0)):
            trial, computed = self._next_trial()
            self._skip(trial, computed, self.space.decode(computed).digest)
        trial, computed = self._next_trial()
        self._note(number, trial, genome, self.space.decode(genome).digest)
        if computed == genome:
            return
        self.optimizer.amend(trial, genome)
        if not self._warned:
            self._warned = True
            log.warning(
                "This machine computes a genome that differs by up to %.2g from the recorded one; "
                "the recorded genomes are used, and the search goes on.",
                max(abs(new - old) for new, old in zip(computed, genome, strict=True)),
            )

    def tell(self, number: int, outcome: Outcome) -> None:
        """Tell the optimizer the values of a candidate, or that it has none.

        Outcomes of baselines without a genome are ignored.
        """
        if number not in self._candidates:
            return
        values = self._values(outcome) if isinstance(outcome, Scores) else None
        if values is not None and not all(map(math.isfinite, values)):
            values = None
        broken = self._violation(outcome) if isinstance(outcome, Scores) else 0.0
        for trial, digest in self._candidates[number]:
            known = self._tries[digest]
            known.told = values, broken
            for each in (trial, *known.waiting):
                self.optimizer.tell(each, values, broken)
            known.waiting.clear()

    def _propose_baseline(self, number: int, genomes: Sequence[Genome]) -> None:
        """Propose the computed or recorded genomes of a baseline."""
        for genome in genomes:
            self.optimizer.enqueue(genome)
        for genome in genomes:
            trial, _ = self.optimizer.ask()
            self._note(number, trial, genome, self.space.decode(genome).digest)

    def _begin(self) -> None:
        """Begin a proposal; the first one enqueues the genomes of the start."""
        self._complete = self._proposed // self.generation
        for genome in self._start:
            self.optimizer.enqueue(genome)
        self._starting += len(self._start)
        self._start = ()

    def _next_trial(self) -> tuple[int, Genome]:
        """Ask the optimizer for a trial of a genome of the start, or of its own."""
        if self._starting:
            self._starting -= 1
        else:
            self._proposed += 1
        return self.optimizer.ask()

    def _skip(self, trial: int, genome: Genome, digest: str) -> None:
        """Tell the optimizer the outcome of a known recipe, or let the trial wait for it."""
        self._genomes.add(hash(genome))
        # On another machine the recipe may be an unknown one; then the trial is never told.
        known = self._tries.get(digest, _TriedRecipe())
        if known.told is None:
            known.waiting.append(trial)
        else:
            self.optimizer.tell(trial, *known.told)

    def _note(self, number: int, trial: int, genome: Genome, digest: str) -> None:
        """Note a trial of the candidate, and that its recipe and genome are tried."""
        self._candidates.setdefault(number, []).append((trial, digest))
        self._tries.setdefault(digest, _TriedRecipe())
        self._genomes.add(hash(genome))
