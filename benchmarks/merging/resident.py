"""The cost of one more candidate in the resident model, beside a pass over as many bytes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from evomerge.mergekit import from_mergekit
from evomerge.merging.resident import Resident
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe

_ROUNDS = 3


def measure(recipe_text: str, family: Path, members: Sequence[str], tensors: int) -> None:
    """Print the CPU seconds of another candidate in memory, and of a pass over the same bytes.

    Args:
        recipe_text: a mergekit file.
        family: folder of the models.
        members: names of the models that the file reads.
        tensors: number of arrays of 16 bits for each weight that the pass reads or writes.
    """
    opened = {
        str(family / name): Checkpoint.open(family / name, str(family / name))
        for name in {*members, "base"}
    }
    recipe = from_mergekit(recipe_text, opened)
    resident = Resident(opened, recipe.host, recipe.dtype, memory=16 << 30)
    resident.apply(recipe)
    times = []
    for number in range(1, _ROUNDS + 1):
        candidate = _other(recipe, number)
        resident._written.clear()  # sce and model_stock have no knob to move
        start = time.process_time()
        resident.apply(candidate)
        times.append(time.process_time() - start)
    weights = [weight.detach() for weight in resident.module.parameters()]
    others = [(weight.clone(), torch.empty_like(weight)) for weight in weights]
    fused = []
    for _ in range(_ROUNDS):
        start = time.process_time()
        for weight, (other_weight, out) in zip(weights, others, strict=True):
            torch.add(weight, other_weight, alpha=0.5, out=out)
        fused.append(time.process_time() - start)
    print(min(times), min(fused) / 3 * tensors)


def _other(recipe: Recipe, number: int) -> Recipe:
    """Return the recipe with all its knobs moved."""

    def nudge(layer: Layer) -> Layer:
        def moved(knobs: dict[str, float]) -> dict[str, float]:
            return {k: v - 0.01 * number if k in ("weight", "t") else v for k, v in knobs.items()}

        sources = [
            replace(item, knobs={"scale": 1 - 0.01 * number})
            if layer.method == "passthrough"
            else replace(item, knobs=moved(dict(item.knobs)))
            for item in layer.sources
        ]
        return replace(layer, sources=sources, knobs=moved(dict(layer.knobs)))

    return replace(
        recipe,
        embeddings=nudge(recipe.embeddings),
        head=nudge(recipe.head),
        layers={key: tuple(map(nudge, stack)) for key, stack in recipe.layers.items()},
    )
