"""The laws of optimizers and of spaces."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

from evomerge import optimize
from evomerge.optimize import Factory
from evomerge.optimize.protocol import Optimizer, Setting, with_replay
from evomerge.recipe import Recipe
from evomerge.space.protocol import Gene, Genome, Space

Create: TypeAlias = Callable[[Sequence[Gene], int], Optimizer]
"""Returns a new optimizer of genes with a seed."""

GENES = (
    Gene("weight", "real", 0.0, 2.0, 1.0),
    Gene("narrow", "real", -1e-3, 1e-3, 0.0, sigma=1e-5),
    Gene("count", "integer", 2, 9, 5),
    Gene("method", "choice", 0, 2, 0, choices=("a", "b", "c")),
    Gene("flag", "binary", 0, 1, 0.5),
)
"""Genes of all kinds; `check_optimizer` uses them if it is given no others."""


def check_optimizer(
    create: str | Factory, genes: Sequence[Gene] = GENES, trials: int = 200, objectives: int = 1
) -> None:
    """Check the laws of `evomerge.optimize.protocol.Optimizer`, and say if all hold.

    Proposals are in the ranges of the genes, new, and after the same calls the same, as a search
    needs it that is resumed. They are told in any order, beside points of others; some fail, some
    break constraints, some are never told.

    Args:
        create: what is registered, a function or class of genes and a `Setting`; or the name
            that it is registered by. A function whose second parameter is called `seed` gets the
            seed alone, with a DeprecationWarning.
        genes: genes to search.
        trials: number of proposals of a search.
        objectives: number of values that the optimizer is told of a genome.

    Raises:
        AssertionError: a law is broken; the message says which.
        ConfigError: there is no optimizer of this name, or it cannot be made.
    """
    make = _maker(create, objectives)
    genes = tuple(genes)
    assert make(genes, 3).population >= 1, "The population is below 1."
    for width, failures in ((1, 0.0), (4, 0.0), (4, 0.2), (4, 1.0), (50, 0.2)):
        state, plan = np.random.get_state(), (genes, trials, width, failures, objectives)
        np.random.seed(1)
        genomes = play(make(genes, 3), *plan)
        drawn = np.random.uniform()
        np.random.seed(1)
        assert drawn == np.random.uniform(), "The optimizer draws from numpy's global generator."
        assert genomes == play(make(genes, 3), *plan), (
            "The same calls gave different proposals, so a run could not be resumed."
        )
        np.random.set_state(state)
    print(f"the optimizer keeps the laws: 5 searches of {trials} trials, all is well.")


def _maker(create: str | Factory, objectives: int) -> Create:
    """Return what makes the optimizer of genes with a seed, as a search makes it."""
    if isinstance(create, str):
        return partial(optimize.create, create, objectives=objectives)
    try:
        second = [*inspect.signature(create).parameters][1:2]
    except (TypeError, ValueError):  # of C, whose parameters nobody knows
        second = []
    if second == ["seed"]:
        warnings.warn(
            "check_optimizer got a function of (genes, seed), but what is registered is a function "
            "of (genes, setting); give it that one.",
            DeprecationWarning,
            stacklevel=3,
        )
        return lambda genes, seed: with_replay(create(genes, seed))
    setting = partial(Setting, objectives=objectives)
    return lambda genes, seed: with_replay(create(genes, setting(seed=seed)))


def play(
    optimizer: Optimizer,
    genes: Sequence[Gene],
    trials: int,
    width: int,
    failures: float,
    objectives: int,
) -> list[Genome]:
    """Search, and return all proposals; every 50th time a corner is told, and one is replaced.

    Up to `width` genomes are open. They are told in random order, and 5 % are never told. The share
    `failures` fails; a fifth of the others break a constraint.
    """
    order = np.random.RandomState(trials)
    genomes: list[Genome] = []
    endless = any(gene.kind == "real" for gene in genes)
    tried: set[Genome] = set()
    waiting: list[Genome] = []

    def tell(genome: Genome) -> None:
        values = [
            -sum((x - goal) ** 2 for goal, x in zip(_goals(genes, k), genome, strict=True))
            for k in range(objectives)
        ]
        failed, violation = order.rand() < failures, max(0.0, order.rand() - 0.8)
        optimizer.tell(genome, None if failed else values, violation)

    for number in range(trials):
        corner = tuple(gene.high if order.rand() < 0.5 else gene.low for gene in genes)
        if number % 50 == 0:
            tell(corner)
            tried.add(corner)
        recorded = genomes[0] if number % 50 == 25 else None
        genome = optimizer.ask() if recorded is None else optimizer.replay(recorded)
        check_range(genes, genome)
        assert genome not in tried or genome == recorded or not endless or failures == 1, (
            "A genome was proposed that had been tried, although there are others."
        )
        genomes.append(genome)
        tried.add(recorded or genome)
        waiting.append(recorded or genome)
        if len(waiting) >= width:
            genome = waiting.pop(order.randint(len(waiting)))
            if order.rand() > 0.05:
                tell(genome)
    return genomes


def _goals(genes: Sequence[Gene], objective: int) -> list[float]:
    """Return the best point for an objective; no corner, where an optimizer might stay."""
    goals = []
    for place, gene in enumerate(genes):
        inwards = (gene.high - gene.low) / 10 if gene.kind == "real" else 0.0
        is_high = (place + objective) % 2
        goals.append(gene.high - inwards if is_high else gene.low + inwards)
    return goals


def check_range(genes: Sequence[Gene], genome: Genome) -> None:
    """Check that each value of a genome is in its gene's range."""
    for gene, value in zip(genes, genome, strict=True):
        assert gene.low <= value <= gene.high, f"Gene {gene.name} is {value}, out of its range."
        assert gene.kind == "real" or value == int(value), (
            f"Gene {gene.name} is {value}, which is not a whole number."
        )


def check_space(space: Space, samples: int = 100, seed: int = 0) -> None:
    """Check the laws of `evomerge.space.protocol.Space`, and say if all hold."""
    genes = tuple(space.genes)
    assert genes, "The space has no genes."
    assert len({gene.name for gene in genes}) == len(genes), "Two genes have the same name."
    for gene in genes:
        assert gene.low < gene.high, f"Gene {gene.name} has an empty range."
        assert gene.low <= gene.start <= gene.high, f"Gene {gene.name} starts out of its range."
        assert gene.kind != "choice" or len(gene.choices) == gene.high + 1, (
            f"Gene {gene.name} has {len(gene.choices)} choices, but values up to {gene.high:g}."
        )
    random = np.random.RandomState(seed)
    ends = [tuple(gene.low for gene in genes), tuple(gene.high for gene in genes)]
    for genome in [*ends, *(random_genome(genes, random) for _ in range(samples - 2))]:
        recipe = space.decode(genome)
        assert space.decode(genome) == recipe, "One genome was decoded to two different recipes."
        again = Recipe.from_dict(recipe.to_dict())
        assert again == recipe, "Recipe.from_dict(recipe.to_dict()) gives another recipe."
        _check_depth(recipe, space)
    baselines = space.baselines()
    for label, recipe in baselines.items():
        assert isinstance(recipe, Recipe), f"Baseline {label} is not a Recipe."
        _check_depth(recipe, space)
    for label, genomes in space.baseline_genomes().items():
        assert label in baselines, f"baseline_genomes() has {label}, but baselines() has not."
        for genome in genomes:
            check_range(genes, genome)
    print(f"the space keeps the laws: {samples} genomes, all is well.")


def random_genome(genes: Sequence[Gene], random: np.random.RandomState) -> Genome:
    """Return a genome that is drawn evenly from the space."""
    return tuple(
        random.uniform(gene.low, gene.high)
        if gene.kind == "real"
        else float(random.randint(round(gene.low), round(gene.high) + 1))
        for gene in genes
    )


def _check_depth(recipe: Recipe, space: Space) -> None:
    stacks = recipe.layers
    depth = max(len(stacks[name]) for name in stacks if len(stacks) == 1 or "decoder" in name)
    text = f"A recipe has {depth} blocks, but max_depth is {space.max_depth}."
    assert depth <= space.max_depth, text
