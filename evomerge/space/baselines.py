"""The uniform merge as a recipe. Every search is compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evomerge.recipe import Layer, Recipe, Source


def uniform_recipe(parents: Sequence[str], layers: int, stack: str, like: Recipe) -> Recipe:
    """Return the plain average of the parents' weights (Wortsman et al. 2022, arXiv 2203.05482).

    Args:
        parents: references of the parents that are averaged.
        layers: number of their blocks; they all have the same.
        stack: prefix of the block stack (`model.layers`).
        like: recipe that everything else is copied from (host, dtype, tokenizer, seed, ...).
    """

    def average(layer: int | None) -> Layer:
        return Layer("linear", tuple(Source(item, layer, {"weight": 1.0}) for item in parents))

    blocks = tuple(average(layer) for layer in range(layers))
    return replace(
        like, layers={stack: blocks}, embeddings=average(None), head=average(None), options={}
    )
