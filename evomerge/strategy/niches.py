"""M2N2, the search by natural niches (Abrantes et al. 2025, arXiv 2508.16204).

Merges are made of earlier merges. An archive keeps the best candidates so far, its members. A new
candidate is a crossover of two members. Each scored document is a resource that the members share:
what a member gets of it is its score, divided by the sum of all members' scores. So a document that
few members solve is worth more, and a member that solves what others do not is kept, even if its
mean score is low. The first mate is drawn by what it gets of all documents; the second by how much
more than the first it gets of those documents where it gets more.

This follows the authors' published script (github.com/SakanaAI/natural_niches), not the pseudocode
of the paper: mates are compared by their shares; a newcomer joins before the shares are computed
again; the member that then gets the least leaves, and that may be the newcomer. There is no
mutation, since the script has one only if it starts from random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError, SearchError
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source
from evomerge.scores import Constraint, Objective, Scores, violation
from evomerge.space.protocol import Genome
from evomerge.strategy.kinds import (
    MemberOptions,
    StrategyKind,
    check_all_documents,
    check_whole_models,
    generation_of,
    options_of,
)
from evomerge.strategy.members import Mate, MateSpace, MatingStrategy
from evomerge.strategy.protocol import Origin

if TYPE_CHECKING:
    from evomerge.evaluation.tasks.info import TasksInfo

Array: TypeAlias = NDArray[np.float64]

Documents: TypeAlias = Callable[[Scores], tuple[Array, Array] | None]
"""Returns the score and the worth of each document; None for scores that do not count."""


class CrossoverSpace(MateSpace):
    """Makes the recipes of crossovers, and of the baselines.

    A crossover is a spherical interpolation between two models whose position changes at one point
    of the depth: t before the split, 1 - t from there on. The authors split the vector of all
    weights anywhere; here the split is between embeddings, blocks and head, each of which is one
    place.
    """

    def child(self, origin: Mapping[str, Any], mates: Sequence[Mate]) -> Recipe:
        """Return the crossover that an origin describes: `{"split": 3, "t": 0.25}`."""
        first, second = mates
        return self.cross(first, second, int(origin["split"]), float(origin["t"]))

    def cross(self, first: Mate, second: Mate, split: int, t: float) -> Recipe:
        """Return the crossover at position t in [0, 1]; from the place `split` on, at 1 - t."""

        def layer(place: int, block: int | None) -> Layer:
            sources = (Source(first.reference, block), Source(second.reference, block))
            return Layer("global_slerp", sources, knobs={"t": t if place < split else 1 - t})

        return self.merge(layer, (first, second))

    def decode(self, genome: Genome) -> Recipe:
        """Return the even mixture of the first two parents; there are no genes to decode."""
        first, second = self.first_parents()
        return self.cross(first, second, self.places // 2, 0.5)


class NichesOptions(MemberOptions):
    """The options of M2N2: how members compete."""

    archive: Annotated[int, Field(ge=2, le=1000)] = Field(
        20, description="largest number of members"
    )
    alpha: float = Field(
        1.0,
        ge=0,
        le=10,
        description="how much members take from each other: a member's share of a document is its "
        "score / (sum of the scores of all members) ** alpha; 0: no competition",
    )
    attraction: bool = Field(
        True, description="draw the second mate by what it gets and the first does not"
    )


@dataclass
class NichesArchive:
    """The members and their scores.

    Attributes:
        members: numbers of the candidates, in an order of no meaning.
        scores: a row for each member, with its score of each document, 0 or more.
        worth: how much there is of each document to share; 1 if there is one objective.
    """

    options: NichesOptions
    members: list[int] = field(default_factory=list)
    scores: list[Array] = field(default_factory=list)
    worth: Array = field(default_factory=lambda: np.ones(0))

    def add(self, number: int, scores: Array, worth: Array) -> None:
        """Add a candidate; if there is no room, the one that then gets the least leaves."""
        self.worth = worth
        self.members.append(number)
        self.scores.append(scores)
        if len(self.members) <= self.options.archive:
            return
        leaves = int(np.argmin(self.shares().sum(axis=1)))
        # The newcomer takes the place of the one that leaves: of equals, the first place leaves.
        self.members[leaves], self.scores[leaves] = self.members[-1], self.scores[-1]
        del self.members[-1], self.scores[-1]

    def shares(self) -> Array:
        """Return what each member (a row) gets of each document."""
        scores = np.stack(self.scores)
        taken = scores.sum(axis=0) ** self.options.alpha
        shares: Array = self.worth * scores / np.where(taken == 0, 1.0, taken)
        return shares

    def mates(self, random: np.random.Generator) -> tuple[int, int]:
        """Draw the numbers of two members; there must be two at least."""
        shares = self.shares()
        fitness = shares.sum(axis=1)
        first = _draw(random, fitness)
        gain = fitness
        if self.options.attraction:
            gain = np.maximum(0.0, shares - shares[first]).sum(axis=1)
        return self.members[first], self.members[_draw(random, gain, without=first)]


class NichesStrategy(MatingStrategy):
    """M2N2 as a strategy; origins are `{"mates": [4, 7], "split": 3, "t": 0.25}`."""

    def __init__(
        self,
        space: CrossoverSpace,
        documents: Documents,
        options: NichesOptions,
        seed: int,
        generation: int = 1,
    ) -> None:
        super().__init__(space, generation, seed)
        self.archive = NichesArchive(options)
        self._places, self._documents = space.places, documents

    def _child(self, random: np.random.Generator) -> Origin:
        """Return the origin of a crossover of two members; without them, of two baselines.

        Split and t are drawn as in the authors' script.
        """
        if len(self.archive.members) >= 2:
            mates = self.archive.mates(random)
        else:
            first, second = random.permutation(list(self._baselines))[:2]
            mates = int(first), int(second)
        split, t = int(random.integers(self._places)), float(random.random())
        return {"mates": list(mates), "split": split, "t": t}

    def _add(self, number: int, scores: Scores) -> None:
        """Let a scored candidate compete for a place in the archive."""
        found = self._documents(scores)
        if found is not None:
            self.archive.add(number, *found)


def shared_documents(
    objectives: Sequence[Objective], constraints: Sequence[Constraint] = ()
) -> Documents:
    """Return what finds the documents that members share, and their worth.

    The documents of an objective are worth as much together as its weight; the mean worth is 1. A
    candidate that breaks a constraint does not count.
    """
    whole = sum(item.weight for item in objectives)

    def find(scores: Scores) -> tuple[Array, Array] | None:
        if scores.expected or violation(constraints, scores) > 0:
            return None
        values = [np.array(scores.values[item.key], dtype=float) for item in objectives]
        count = sum(map(len, values))
        worth = [
            np.full(len(of), item.weight / whole * count / len(of))
            for item, of in zip(objectives, values, strict=True)
        ]
        found = np.nan_to_num(np.concatenate(values))
        if (found < 0).any():
            raise SearchError(
                f"A document has the score {found.min():g}, but the optimizer 'niches' needs "
                "scores of 0 or more; choose another metric or optimizer."
            )
        return found, np.concatenate(worth)

    return find


def _draw(random: np.random.Generator, weights: Array, without: int | None = None) -> int:
    """Draw an index by weights; if all are 0, each but `without` is as likely."""
    if not weights.any():
        weights = np.ones(len(weights))
        if without is not None:
            weights[without] = 0.0
    return int(random.choice(len(weights), p=weights / weights.sum()))


def _space(config: SearchConfig, host: Checkpoint) -> CrossoverSpace:
    if config.base is not None:
        raise ConfigError(
            "`base` has no meaning for the optimizer 'niches', which has no task vectors; remove "
            "it, or name the model among the parents."
        )
    check_whole_models(config)
    return CrossoverSpace.of(config, host)


def _check(config: SearchConfig, objectives: Sequence[Objective], info: TasksInfo) -> None:
    """Check that members can share the documents of all objectives."""
    for item in objectives:
        if not item.higher_is_better:
            reason = "lower values are better"
        elif item.is_exact or not info.metric(item.task, item.metric)[1].is_mean:
            reason = "it is not a mean over documents"
        elif info.leaves(item.task) != (item.task,):
            reason = "it is that of a group; name the tasks of the group instead"
        else:
            continue
        raise ConfigError(
            f"The optimizer 'niches' shares out the score of each document, which {item.key} does "
            f"not allow: {reason}."
        )
    check_all_documents(config, "keeps them for single documents")


def _make(
    config: SearchConfig,
    space: CrossoverSpace,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
) -> NichesStrategy:
    documents, options = (
        shared_documents(objectives, constraints),
        options_of(config, NichesOptions),
    )
    return NichesStrategy(space, documents, options, config.seed, generation_of(config))


NICHES = StrategyKind(
    about="natural niches (M2N2): merges of earlier merges, kept for what they alone solve",
    options=NichesOptions,
    space=_space,
    check=_check,
    make=_make,
)
