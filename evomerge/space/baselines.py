"""Uniform averages of parents as recipes. Every search is compared with that of all parents."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from evomerge.recipe import Layer, Recipe, Source

UNIFORM = "uniform"
"""Label of the uniform merge."""


def uniform_recipe(
    parents: Sequence[str],
    stacks: Mapping[str, int],
    like: Recipe,
    modalities: Mapping[str, Collection[str]] | None = None,
) -> Recipe:
    """Return the plain average of the parents' weights (Wortsman et al. 2022, arXiv 2203.05482).

    Everything else is that of `like` (host, dtype, tokenizer, seed, ...). `stacks`: prefix of a
    block stack -> number of blocks. `modalities`: those that are merged -> the parents that have
    them; of parents without one it is the host's.
    """

    def average(layer: int | None, of: Sequence[str] = parents) -> Layer:
        return Layer("linear", tuple(Source(item, layer, {"weight": 1.0}) for item in of))

    layers = {stack: tuple(map(average, range(count))) for stack, count in stacks.items()}
    recipe = replace(like, layers=layers, embeddings=average(None), head=average(None), options={})
    for name, having in (modalities or {}).items():
        if of := [item for item in parents if item in having]:
            recipe = replace(recipe, **{name: average(None, of)})  # type: ignore[arg-type]
    return recipe


def baseline_recipes(
    parents: Sequence[str],
    merged: Sequence[str],
    stacks: Mapping[str, int],
    like: Recipe,
    modalities: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Recipe]:
    """Return each parent alone, by its reference, and the average of those that are merged.

    All use the method `linear`, so that the recipe of a parent builds exactly that parent.
    """
    averages = {**{parent: [parent] for parent in parents}, UNIFORM: merged}
    return {label: uniform_recipe(of, stacks, like, modalities) for label, of in averages.items()}


def experts_of(parents: Sequence[str], base: str | None) -> list[str]:
    """Return the parents without the base, or all of them if the base is the only one."""
    return [parent for parent in parents if parent != base] or list(parents)


def shares_of(parents: Sequence[str], base: str | None) -> dict[str, dict[str, float]]:
    """Return for each baseline, by its label, the share of each parent in it."""
    experts = experts_of(parents, base)
    uniform = {parent: 1 / len(experts) for parent in experts}
    return {**{parent: {parent: 1.0} for parent in parents}, UNIFORM: uniform}


def alone(parent: str, uniform: Recipe) -> Recipe:
    """Return the recipe of one model, parent or base, with everything else that of a baseline."""

    def own(layer: Layer) -> Layer:
        return replace(layer, sources=(replace(layer.sources[0], parent=parent),))

    return replace(
        uniform,
        embeddings=own(uniform.embeddings),
        layers={name: tuple(map(own, blocks)) for name, blocks in uniform.layers.items()},
        head=own(uniform.head),
    )
