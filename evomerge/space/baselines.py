"""The recipes that a search begins from: uniform averages of parents, and what layers are added to.

Every search is compared with the average of all parents.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge.config.schema import SearchConfig
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source

UNIFORM = "uniform"
"""Label of the uniform merge."""


def baseline_recipes(
    parents: Sequence[str],
    merged: Sequence[str],
    stacks: Mapping[str, int],
    like: Recipe,
    modalities: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Recipe]:
    """Return each parent alone, by its reference, and the plain average of those that are merged.

    Everything else is that of `like` (host, dtype, tokenizer, seed, ...). `stacks`: prefix of a
    block stack -> number of blocks. `modalities`: those that are merged -> the parents that have
    them; of parents without one it is the host's. All use the method `linear`, so that the recipe
    of a parent builds exactly that parent. Averages: Wortsman et al. 2022, arXiv 2203.05482.
    """

    def average(of: Sequence[str], layer: int | None = None) -> Layer:
        return Layer("linear", tuple(Source(item, layer, {"weight": 1.0}) for item in of))

    def recipe(of: Sequence[str]) -> Recipe:
        layers = {
            stack: tuple(average(of, layer) for layer in range(n)) for stack, n in stacks.items()
        }
        towers: dict[str, Any] = {
            name: average(parts)
            for name, owners in (modalities or {}).items()
            if (parts := [parent for parent in of if parent in owners])
        }
        end = average(of)
        return replace(like, layers=layers, options={}, embeddings=end, head=end, **towers)

    averages = {**{parent: [parent] for parent in parents}, UNIFORM: merged}
    return {label: recipe(of) for label, of in averages.items()}


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

    def of_parent(layer: Layer) -> Layer:
        return replace(layer, sources=(replace(layer.sources[0], parent=parent),))

    return replace(
        uniform,
        embeddings=of_parent(uniform.embeddings),
        layers={name: tuple(map(of_parent, blocks)) for name, blocks in uniform.layers.items()},
        head=of_parent(uniform.head),
    )


def frame_of(config: SearchConfig, host: Checkpoint) -> Recipe:
    """Return a recipe without layers, to which a space adds them."""
    givers = config.space.givers
    base = [config.base] if config.base else []
    # With the host's tokenizer, the rows of embeddings are not matched by token.
    vocabulary = () if config.tokenizer == "base" else dict.fromkeys([*base, *config.parents])

    def whole(parent: str | None) -> Layer:
        return Layer("passthrough", (Source(parent or host.reference),))

    return Recipe(
        host=host.reference,
        layers={},
        embeddings=whole(givers.get("outside.embeddings")),
        head=whole(givers.get("outside.head")),
        dtype=config.dtype,
        tokenizer=config.tokenizer,
        vocabulary=tuple(vocabulary),
        seed=config.seed,
    )
