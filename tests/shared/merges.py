"""Layers and recipes of few parents, as tests need them, and a digest of what they give."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from evomerge.merging.methods import get_method
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source


def mix(
    parents: Mapping[str, float] | Iterable[str],
    block: int | None = None,
    method: str = "linear",
    base: str | None = None,
    **knobs: float,
) -> Layer:
    """Return a layer of these parents, with their weights if they are given."""
    weights = parents if isinstance(parents, Mapping) else dict.fromkeys(parents)
    sources = [
        Source(name, block, {} if weight is None else {"weight": weight})
        for name, weight in weights.items()
    ]
    return Layer(method, sources, Source(base, block) if base else None, knobs)


def of_method(
    method: str,
    block: int | None,
    values: Mapping[str, float],
    moved: Mapping[tuple[str | None, str], float] | None = None,
) -> Layer:
    """Return a layer of any method, of the parents "a" and "b" and maybe of "base".

    Its knobs have these values, or else their defaults. `moved`: (parent, or None for a knob of the
    merge; name) -> what is added.
    """
    found = get_method(method)

    def knobs(parent: str | None) -> dict[str, float]:
        return {
            knob.name: min(max(values.get(knob.name, knob.default or 0.0), knob.low), knob.high)
            + (moved or {}).get((parent, knob.name), 0.0)
            for knob in found.knobs
            if (knob.per == "merge") == (parent is None)
        }

    sources = [Source(name, block, knobs(name)) for name in "ab"[: found.parents[1]]]
    base = Source("base", block) if found.base != "none" else None
    return Layer(method, sources, base, knobs(None))


def every(host: Checkpoint, layer: Callable[[int | None], Layer], **more: Any) -> Recipe:
    """Return the recipe that has `layer(i)` for block i, and `layer(None)` outside of blocks."""
    stacks = {prefix: [*map(layer, range(len(it)))] for prefix, it in host.language.items()}
    return Recipe(host.reference, stacks, layer(None), layer(None), **more)


def path(host: Checkpoint, hops: Sequence[tuple[str, int | None]], **more: Any) -> Recipe:
    """Return a path of whole blocks: (parent, block), with ends of the host."""
    layers = [Layer("passthrough", [Source(*hop)]) for hop in hops]
    whole = Layer("passthrough", [Source(host.reference)])
    return Recipe(host.reference, {host.decoder_stack.prefix: layers}, whole, whole, **more)


def rates_of(resident, moves):
    """Return the rates of genes, given (lower recipe, upper recipe, distance) of each."""
    from evomerge.merging.gradients import knob_changes

    rates = defaultdict(list)
    for gene, (lower, upper, distance) in enumerate(moves):
        for (name, key), change in knob_changes(resident.planner, lower, upper).items():
            rates[name].append((gene, key, change / distance))
    return rates


def digest(module: nn.Module) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of a model's parameters, by name."""
    total = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        total.update(f"{name}:{parameter.dtype}:{tuple(parameter.shape)}\n".encode())
        flat = parameter.detach().cpu().contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()
