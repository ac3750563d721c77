"""CycleQD, quality diversity whose objectives take turns (Kuroki et al. 2025, arXiv 2410.14735).

There is an archive for each objective (see `evomerge_research.archive`). Generation by generation,
the next archive gives two elites, drawn by elite sampling. Their task vectors are averaged, with
weights near 1. A mutation adds to each matrix random shares of the singular components of the
expert, the parent of the search that is best at the archive's objective. A scored candidate is
added to all archives in which its cell is empty or its quality is better.

This follows the authors' published code (github.com/SakanaAI/CycleQD).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError, did_you_mean
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source
from evomerge.scores import Constraint, Objective, Scores
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
from evomerge_research.archive import Archive, Grid, finite_values

if TYPE_CHECKING:
    from evomerge.evaluation.tasks.info import TasksInfo


class TaskVectorSpace(MateSpace):
    """Makes the recipes of children by task vectors, and of the baselines.

    A child is base + sum_i w_i (mate_i - base) / sum_i w_i, mutated by the method `svd_mutation`.

    Args:
        base: reference of the model that task vectors are measured from.
        more: see `MateSpace`.
    """

    def __init__(self, *, base: str, **more: Any) -> None:
        super().__init__(**more)
        self._base = base

    def child(self, origin: Mapping[str, Any], mates: Sequence[Mate]) -> Recipe:
        """Return the child that an origin describes.

        `{"weights": [1.01, 0.98], "expert": "zoo:maths", "mutation": 0.1, "seed": 7}`: the weights
        of the mates, and the mutation, if there is one.
        """
        expert = origin.get("expert")
        if expert is not None and expert not in self.parents:
            raise ValueError(f"{expert!r} is no parent")
        knobs = [
            (mate.reference, {"weight": float(weight)})
            for mate, weight in zip(mates, origin["weights"], strict=True)
        ]
        if expert is not None:
            knobs.append((expert, {"weight": 0.0, "mutation": float(origin["mutation"])}))

        def layer(place: int, block: int | None) -> Layer:
            return Layer(
                "svd_mutation",
                tuple(Source(reference, block, own) for reference, own in knobs),
                base=Source(self._base, block),
                knobs={"normalize": 1.0},
            )

        return self.merge(layer, mates, None if expert is None else int(origin["seed"]))

    def decode(self, genome: Genome) -> Recipe:
        """Return the mean of the first two parents, mutated; there are no genes to decode."""
        mutation = {"expert": self.parents[0], "mutation": 1.0, "seed": 0}
        return self.child({"weights": [1.0, 1.0], **mutation}, self.first_parents())


@dataclass(frozen=True)
class CycleQDSetting:
    """How children are made.

    Attributes:
        sigma: standard deviation of the weights of the mates, whose mean is 1.
        mutation: largest share of a singular component that a mutation adds; 0: no mutation.
        aggregate: each proposal whose count is a multiple of this merges the best elites of all
            archives; 0: none does.
        generation: number of candidates that are proposed before outcomes are told.
    """

    sigma: float = 0.01
    mutation: float = 0.1
    aggregate: int = 0
    generation: int = 1


class CycleQDStrategy(MatingStrategy):
    """CycleQD as a strategy.

    Origins are `{"archive": "zoo_l2/exact_match", "mates": [4, 7], "weights": [1.01, 0.98],
    "expert": "zoo:maths", "mutation": 0.1, "seed": 93}`; the last three are left out where there
    is no mutation.

    Args:
        space: makes the recipes of children.
        objectives: two or more objectives; each has an archive.
        constraints: a candidate that breaks one is in no archive.
        grid: how scores are divided into bins.
        setting: how children are made.
        seed: seed of all random numbers, 0 or more.
    """

    def __init__(
        self,
        space: TaskVectorSpace,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        grid: Grid,
        setting: CycleQDSetting,
        seed: int,
    ) -> None:
        super().__init__(space, setting.generation, seed)
        self.setting = setting
        self.archives = [Archive(grid, index) for index in range(len(objectives))]
        self._objectives, self._constraints = objectives, constraints
        self._parents = space.parents
        self._values: dict[str, tuple[float, ...]] = {}
        """The values of each parent that was scored, by reference."""

    def _add(self, number: int, scores: Scores) -> None:
        """Add a scored candidate to the archives where it is an elite."""
        values = finite_values(self._objectives, self._constraints, scores)
        if values is None:
            return
        for archive in self.archives:
            archive.add(number, values)
        if number in self._baselines:
            self._values[self._baselines[number]] = values

    def _child(self, random: np.random.Generator) -> Origin:
        """Return the origin of a merge of the best elites if it is its turn, else of two elites."""
        turn = self._asked // self.generation % len(self.archives)
        return self._aggregate() or self._mutated(random, turn)

    def _mutated(self, random: np.random.Generator, turn: int) -> Origin:
        """Return the origin of a child of two elites, or of baselines where elites are missing."""
        archive = self.archives[turn]
        mates = archive.draw(random, 2) if archive.elites else []
        others = [number for number in self._baselines if number not in mates]
        missing = random.permutation(len(others))[: 2 - len(mates)]
        mates += [others[index] for index in missing]
        origin: dict[str, object] = {
            "archive": self._objectives[turn].key,
            "mates": mates,
            "weights": random.normal(1.0, self.setting.sigma, len(mates)).tolist(),
        }
        if self.setting.mutation:
            origin |= {
                "expert": self._expert(turn),
                "mutation": self.setting.mutation,
                "seed": int(random.integers(1 << 31)),
            }
        return origin

    def _expert(self, turn: int) -> str:
        """Return the parent with the best score on an objective, the first one of equals."""
        scored = [parent for parent in self._parents if parent in self._values]
        if not scored:
            return self._parents[turn % len(self._parents)]
        return max(scored, key=lambda parent: self._values[parent][turn])

    def _aggregate(self) -> Origin | None:
        """Return the origin of a merge of the best elites; None if it is not its turn."""
        every = self.setting.aggregate
        if not every or (self._asked + 1) % every or not all(a.elites for a in self.archives):
            return None
        best = {elite.number: elite.quality for elite in (a.best() for a in self.archives)}
        if len(best) < 2:
            return None
        shares = np.exp(np.array(list(best.values())) - max(best.values()))
        return {
            "archive": "all",
            "mates": list(best),
            "weights": (shares / shares.sum()).tolist(),
        }


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError("must be [low, high] with low < high")
    return bounds


Bounds = Annotated[tuple[float, float], AfterValidator(_ordered)]


class CycleQDOptions(MemberOptions):
    """The options of CycleQD."""

    bins: int = Field(
        15, ge=1, le=1000, description="number of bins of each score that describes a cell"
    )
    bounds: dict[str, Bounds] = Field(
        default={},
        description="TASK/METRIC -> [low, high], the range that is divided into bins; 0 to 1 where "
        "none is given",
    )
    sigma: float = Field(
        0.01,
        ge=0,
        le=0.3,
        description="standard deviation of the weights of the two parents, whose mean is 1",
    )
    mutation: float = Field(
        0.1,
        ge=0,
        le=10,
        description="largest share of a singular component of the expert that a mutation adds; 0: "
        "no mutation",
    )
    aggregate: int = Field(
        0,
        ge=0,
        description="each candidate whose count is a multiple of this merges the best elites of "
        "all archives; 0: none does",
    )


def _space(config: SearchConfig, host: Checkpoint) -> TaskVectorSpace:
    """Return the space of a search file.

    Raises:
        ConfigError: a key has no meaning for CycleQD, there is no base, or there are fewer than two
            parents.
    """
    if config.base is None:
        raise ConfigError(
            "The optimizer 'cycleqd' adds task vectors, the differences of models from a base; set "
            "`base` to the model that the parents were fine-tuned from."
        )
    check_whole_models(config)
    return TaskVectorSpace.of(config, host, base=config.base)


def _check(config: SearchConfig, objectives: Sequence[Objective], info: TasksInfo) -> None:
    """Check that the objectives can have archives.

    Raises:
        ConfigError: there are fewer than two objectives, bounds are missing or of no objective, or
            candidates are scored on fewer documents.
    """
    if len(objectives) < 2:
        raise ConfigError(
            f"The optimizer 'cycleqd' keeps the best model on one objective for each score on the "
            f"others, but `objectives` has only {objectives[0].key}; add one, or choose another "
            "optimizer."
        )
    bounds, keys = options_of(config, CycleQDOptions).bounds, [item.key for item in objectives]
    for key in bounds:
        if key not in keys:
            raise ConfigError(
                f"`optimizer.options.bounds` has {key!r}, which is no objective; these are "
                f"{', '.join(keys)}.{did_you_mean(key, keys)}"
            )
    for item in objectives:
        if item.key not in bounds and (item.is_exact or not item.higher_is_better):
            raise ConfigError(
                f"The optimizer 'cycleqd' divides the scores from 0 to 1 into bins, but {item.key} "
                "has another range; give its lowest and highest value in "
                f"`optimizer.options.bounds`, as {{{item.key}: [LOW, HIGH]}}."
            )
    check_all_documents(config, "keeps them for single objectives")


def _make(
    config: SearchConfig,
    space: TaskVectorSpace,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
) -> CycleQDStrategy:
    options = options_of(config, CycleQDOptions)
    return CycleQDStrategy(
        space,
        objectives,
        constraints,
        Grid.of(objectives, options.bins, options.bounds),
        CycleQDSetting(options.sigma, options.mutation, options.aggregate, generation_of(config)),
        config.seed,
    )


CYCLEQD = StrategyKind(
    about="CycleQD: merges of earlier merges, kept for each mixture of skills; two objectives or "
    "more",
    options=CycleQDOptions,
    space=_space,
    check=_check,
    make=_make,
)
