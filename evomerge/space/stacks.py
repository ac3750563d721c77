"""The block stacks of a merge, and how a search file divides them into groups and components."""

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from evomerge.errors import ConfigError, did_you_mean
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap
from evomerge.models.parts import merged_stacks, stack_names
from evomerge.models.stacks import Stack

REST = "rest"
"""Name of the component of all tensors that belong to no named component."""

Groups: TypeAlias = int | Literal["each", "one"]


@dataclass(frozen=True)
class BlockStack:
    """A block stack that is merged, with so many layers.

    `prefix` is before the index of a block in the names of its tensors (`model.layers`). `filters`:
    component -> substrings of these names, in the order in which they are tried. Genes call the
    stack by its `name`; an encoder-decoder has an `encoder` and a `decoder`.
    """

    prefix: str
    layers: int
    filters: Mapping[str, Sequence[str]]
    name: str = "layers"


Between: TypeAlias = tuple[int, int, float]
"""Where a block is: the indices of its place and of the next, and the share of the way to it."""


def stacks_of(
    host: Checkpoint, filters: Callable[[Stack], Mapping[str, Sequence[str]]]
) -> list[BlockStack]:
    """Return the block stacks of merges, the decoder's last."""
    return [
        BlockStack(stack.prefix, len(stack), filters(stack), name)
        for name, stack in zip(stack_names(host), merged_stacks(host).values(), strict=True)
    ]


def check_depths(checkpoints: Mapping[str, Checkpoint], host: Checkpoint) -> None:
    """Check that all parents have as many layers as the host, since these are merged in pairs."""
    names = stack_names(host)
    for name, checkpoint in checkpoints.items():
        theirs = TensorNameMap(host, checkpoint).stacks
        for called, (prefix, stack) in zip(names, merged_stacks(host).items(), strict=True):
            if (own := len(theirs.get(prefix, ()))) != len(stack):
                of_stack = "" if stack is host.decoder_stack else f" in its {called}"
                raise ConfigError(
                    f"Parent {name!r} has {own} layers{of_stack}, but the host "
                    f"{host.reference!r} has {len(stack)}, and `space.kind` 'parameters' merges "
                    "them in pairs; give parents with as many layers, or set the kind to "
                    "'dataflow', which searches a path through them."
                )


def groups_of(
    stack: BlockStack, groups: Groups, smooth: bool, index: int
) -> tuple[list[str], list[Between]]:
    """Return the names of a stack's places, which say which blocks they are, and each block's.

    `index`: that of the first of these places.
    """
    layers = stack.layers
    count = min(_count(groups, layers), layers)
    firsts = [group * layers // count for group in range(count)]
    if smooth and (steps := count - 1):
        firsts = [(2 * anchor * (layers - 1) + steps) // (2 * steps) for anchor in range(count)]
    bounds = [*pairwise([*firsts, layers])]
    names = [f"{stack.name}[{a}]" if smooth else f"{stack.name}[{a}:{b}]" for a, b in bounds]
    between = []
    for block in range(layers):
        group = bisect_right(firsts, block) - 1
        following = min(group + 1, count - 1)
        first, stop = bounds[group]
        share = (block - first) / (stop - first) if smooth and following > group else 0.0
        between.append((index + group, index + following, share))
    return names, between


def _count(groups: Groups, layers: int) -> int:
    return {"each": layers, "one": 1}[groups] if isinstance(groups, str) else groups


def check_groups(groups: Groups, layers: int) -> None:
    """Raise a `ConfigError` unless the deepest stack can have so many groups."""
    if not isinstance(groups, str) and not 1 <= groups <= layers:
        raise ConfigError(
            f"space.groups is {groups!r}, but the model has {layers} blocks; it must be a number "
            f"from 1 to {layers}, `each` or `one`."
        )


def check_components(
    names: Sequence[str] | Literal["each"],
    stacks: Sequence[BlockStack],
    modalities: Collection[str],
) -> None:
    """Check that a model has the components that a search file names."""
    known = [*dict.fromkeys(name for stack in stacks for name in stack.filters), *modalities]
    for name in names if names != "each" else ():
        if name not in known:
            raise ConfigError(
                f"space.components names {name!r}, which this model does not have; it has "
                f"{', '.join(known) or 'none'}, and `rest` is always added."
                f"{did_you_mean(name, known)}"
            )


def components_of(
    names: Sequence[str] | Literal["each"], filters: Mapping[str, Sequence[str]]
) -> Mapping[str, Sequence[str]]:
    """Return the components of a stack that a search file names and the rest; none: no names."""
    if names == "each":
        return filters
    components = {name: parts for name, parts in filters.items() if name in names}
    return {**components, REST: ("*",)} if components else {}
