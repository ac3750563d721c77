"""Merges of earlier candidates: what every strategy that makes them has in common.

A child is a merge of mates, which are parents of the search or earlier candidates. There are no
genes: an origin names the mates by their numbers, and says how they are merged. A strategy chooses
the mates (`MatingStrategy`); a space makes the recipe of a child from its origin (`MateSpace`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from evomerge.config.schema import SearchConfig
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.encoder_decoder import merged_stacks
from evomerge.recipe import MEMBER, Layer, Recipe
from evomerge.run.history import Candidate
from evomerge.scores import Outcome, Scores
from evomerge.space.baselines import baseline_recipes
from evomerge.space.protocol import Gene, Genome
from evomerge.strategy.protocol import Origin, Proposal


@dataclass(frozen=True)
class Mate:
    """One of the models that a child is made of."""

    reference: str  # of a parent, or `member:NUMBER`
    recipe: Recipe


class MateSpace(ABC):
    """Makes the recipes of children of earlier candidates, and of the baselines."""

    genes: tuple[Gene, ...] = ()

    def __init__(
        self,
        *,
        parents: Sequence[str],
        host: str,
        stacks: Mapping[str, int],
        dtype: str = "bfloat16",
        seed: int = 0,
    ) -> None:
        self.parents = tuple(parents)
        self._stacks, self.max_depth = stacks, [*stacks.values()][-1]
        nothing = Layer("", ())
        self._frame = Recipe(host, {}, nothing, nothing, dtype, seed=seed)

    @classmethod
    def of(cls, config: SearchConfig, host: Checkpoint, **more: Any) -> Self:
        """Return the space of a search file; `more` are further arguments of the constructor."""
        return cls(
            parents=config.parents,
            host=host.reference,
            stacks={prefix: len(stack) for prefix, stack in merged_stacks(host).items()},
            dtype=config.dtype,
            seed=config.seed,
            **more,
        )

    @abstractmethod
    def child(self, origin: Mapping[str, Any], mates: Sequence[Mate]) -> Recipe:
        """Return the recipe of a child of these mates, merged as the origin says.

        Raises KeyError, TypeError or ValueError for an origin that is none of these mates.
        """

    @abstractmethod
    def decode(self, genome: Genome) -> Recipe:
        """Return a child of the first parents; there are no genes to decode."""

    @property
    def places(self) -> int:
        """Number of places in the depth of a model: embeddings, each block, head."""
        return sum(self._stacks.values()) + 2

    def baselines(self) -> dict[str, Recipe]:
        """Return each parent alone (by its reference) and the uniform merge (as `uniform`)."""
        return baseline_recipes(self.parents, self.parents, self._stacks, self._frame)

    def baseline_genomes(self) -> dict[str, list[Genome]]:
        """Return nothing, since there are no genes."""
        return {}

    def first_parents(self) -> list[Mate]:
        """Return the first two parents as mates."""
        baselines = self.baselines()
        return [Mate(item, baselines[item]) for item in self.parents[:2]]

    def merge(
        self,
        layer: Callable[[int, int | None], Layer],
        mates: Sequence[Mate],
        seed: int | None = None,
    ) -> Recipe:
        """Return the recipe whose layers a function gives, for each place and its block.

        Place 0 is the embeddings; `block` is None outside of the blocks.
        """
        layers, place = {}, 1
        for prefix, count in self._stacks.items():
            layers[prefix] = tuple(layer(place + block, block) for block in range(count))
            place += count
        return replace(
            self._frame,
            embeddings=layer(0, None),
            layers=layers,
            head=layer(place, None),
            members={
                mate.reference: mate.recipe for mate in mates if mate.reference.startswith(MEMBER)
            },
            seed=self._frame.seed if seed is None else seed,
        )


class Lineage:
    """Makes the recipe of each candidate from those of its mates."""

    def __init__(self, space: MateSpace) -> None:
        self._space, self._baselines = space, space.baselines()
        self._mates: dict[int, Mate] = {}

    def add(self, number: int, label: str | None, origin: Origin) -> None:
        """Add a baseline by its label, or a child by its origin; ValueError: it is neither."""
        try:
            recipe = self._baselines[label] if label is not None else self._child(origin)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{label or dict(origin)!r} is no merge of earlier candidates"
            ) from error
        is_parent = label is not None and label in self._space.parents
        reference = label if is_parent and label is not None else f"{MEMBER}{number}"
        self._mates[number] = Mate(reference, recipe)

    def __contains__(self, number: int) -> bool:
        return number in self._mates

    def recipe(self, number: int) -> Recipe:
        """Return the recipe of a candidate that was added."""
        return self._mates[number].recipe

    def _child(self, origin: Origin) -> Recipe:
        mates = [self._mates[number] for number in origin["mates"]]
        return self._space.child(origin, mates)


def recipe_in(space: MateSpace, candidates: Sequence[Candidate], number: int) -> Recipe:
    """Return the recipe of one candidate of a run.

    ValueError: an origin is not that of a child. IndexError: a mate is no candidate.
    """
    needed, unseen = {number}, [number]
    while unseen:
        new = set(candidates[unseen.pop()].origin.get("mates", ())) - needed
        needed |= new
        unseen += new
    lineage = Lineage(space)
    for item in sorted(needed):
        lineage.add(item, candidates[item].label, candidates[item].origin)
    return lineage.recipe(number)


class MatingStrategy(ABC):
    """A strategy whose candidates are merges of earlier candidates.

    Random numbers depend on the seed and the candidate's number only.
    """

    def __init__(self, space: MateSpace, generation: int, seed: int) -> None:
        self.generation, self.seed = generation, seed
        self.lineage = Lineage(space)
        self._labels = space.baselines().keys()
        self._baselines: dict[int, str] = {}
        self._asked = 0

    @property
    def left(self) -> int:
        """Number of proposals that the current generation still lacks."""
        return self.generation - self._asked % self.generation

    def add_baseline(self, number: int, label: str) -> Origin:
        """Add a baseline; it can become a mate once its scores are told."""
        self.repeat(number, label, {})
        return {}

    def ask(self, number: int) -> Proposal:
        """Propose a child of earlier candidates."""
        origin = self._child(np.random.default_rng([self.seed, number]))
        self.repeat(number, None, origin)
        return Proposal(self.lineage.recipe(number), origin)

    def repeat(self, number: int, label: str | None, origin: Origin) -> None:
        """Note a candidate; ValueError: its origin is not that of a child.

        Nothing is drawn: the recorded origin counts. Averages that are tried for the greedy soup
        are not of this strategy; it ignores them.
        """
        if label not in self._labels and "mates" not in origin:
            return
        self.lineage.add(number, label, origin)
        if label is None:
            self._asked += 1
        else:
            self._baselines[number] = label

    def tell(self, number: int, outcome: Outcome) -> None:
        """Let a scored candidate of this strategy become a mate."""
        if number in self.lineage and isinstance(outcome, Scores):
            self._add(number, outcome)

    @abstractmethod
    def _child(self, random: np.random.Generator) -> Origin:
        """Return the origin of a new child: `mates`, and how they are merged."""

    @abstractmethod
    def _add(self, number: int, scores: Scores) -> None:
        """Add a scored candidate to those that mates are drawn from, if it is good enough."""
