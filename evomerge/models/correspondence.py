"""Which tensor of a parent answers to which tensor of the host, and whether the parents fit.

Names differ between versions of transformers and between a language model alone and the same one
inside a vision-language model. They are compared without the wrappers in front (`model.`,
`language_model.`, the model type) and with old LayerNorm words renewed (`gamma`, `beta`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.stacks import Stack, is_buffer

_WRAPPERS = frozenset(
    {"model", "language_model", "text_model", "llm", "base_model", "transformer", "backbone"}
)
_RENEWED = ((re.compile(r"\.gamma$"), ".weight"), (re.compile(r"\.beta$"), ".bias"))


def normal(name: str, checkpoint: Checkpoint) -> str:
    """Return a tensor's (or stack's) name without wrappers and in today's words."""
    kinds = {
        str(part.get("model_type", "")) for part in (checkpoint.config, checkpoint.text_config)
    }
    dropped = _WRAPPERS | kinds | {kind.replace("-", "_") for kind in kinds}
    words = name.split(".")
    while len(words) > 1 and words[0] in dropped:
        words = words[1:]
    result = ".".join(words)
    for old, new in _RENEWED:
        result = old.sub(new, result)
    return result


class Fit:
    """How one parent's tensors answer to the host's.

    Args:
        host: gives the names of the merged model.
        parent: any checkpoint of the same architecture (the host itself too).
    """

    def __init__(self, host: Checkpoint, parent: Checkpoint) -> None:
        self.host, self.parent = host, parent

    @cached_property
    def stacks(self) -> dict[str, Stack]:
        """The parent's stack for each of the host's stacks that it has."""
        if self.parent is self.host:
            return self.host.stacks
        by_name = {
            normal(stack.prefix, self.parent): stack for stack in self.parent.stacks.values()
        }
        found = {
            prefix: by_name[normal(prefix, self.host)]
            for prefix in self.host.stacks
            if normal(prefix, self.host) in by_name
        }
        return {self.host.main.prefix: self.parent.main, **found}

    @cached_property
    def outside(self) -> dict[str, str]:
        """The parent's name for each of the host's tensors outside of the blocks that it has.

        A head that the parent does not store is its embedding matrix.
        """
        by_name = {normal(name, self.parent): name for name in self.parent.places}
        found = {
            name: by_name[normal(name, self.host)]
            for name in self.host.places
            if normal(name, self.host) in by_name
        }
        head, embedding = self.host.head, self.parent.embedding
        if head and embedding and (head not in found or self.parent.tied):
            found[head] = embedding
        return found

    @cached_property
    def _rests(self) -> dict[str, dict[str, str]]:
        return {
            prefix: {_renewed(rest): rest for block in stack.blocks for rest in block}
            for prefix, stack in self.stacks.items()
        }

    @cached_property
    def _known(self) -> dict[str, dict[str, str]]:
        return {
            prefix: {_renewed(rest): rest for block in stack.blocks for rest in block}
            for prefix, stack in self.host.stacks.items()
        }

    def inside(self, prefix: str, layer: int, rest: str) -> str | None:
        """Return the parent's name of a block tensor, or None where it has none.

        Args:
            prefix: the host's stack.
            layer: block index in the parent.
            rest: the host's name of the tensor inside of a block.
        """
        stack = self.stacks.get(prefix)
        own = self._rests[prefix].get(_renewed(rest)) if stack else None
        if stack is None or own is None:
            return None
        name = stack.name(layer, own)
        return name if name in self.parent.tensors else None

    def block(self, prefix: str, layer: int) -> tuple[str, ...]:
        """Return the host's names of the tensors in the parent's block `layer`.

        Raises:
            CheckpointError: the parent's block has a tensor that no block of the host has.
        """
        known = self._known[prefix]
        stack = self.stacks[prefix]
        names = []
        for rest in stack.blocks[layer]:
            own = known.get(_renewed(rest))
            if own is not None:
                names.append(own)
            elif not is_buffer(rest, self.parent.tensors[stack.name(layer, rest)]):
                raise _surplus(self.host, self.parent, stack.name(layer, rest))
        return tuple(names)


@lru_cache(maxsize=1 << 14)
def _renewed(rest: str) -> str:
    for old, new in _RENEWED:
        rest = old.sub(new, rest)
    return rest


def has_counterparts(host: Checkpoint, parent: Checkpoint) -> bool:
    """Whether a parent has a tensor for every tensor that the host merges, going by names."""
    fit = Fit(host, parent)
    for name, place in host.places.items():
        tied = name == host.head and host.tied
        if place in ("embeddings", "head") and name not in fit.outside and not tied:
            return False
    return all(
        fit.inside(prefix, layer, rest) or is_buffer(rest, host.tensors[stack.name(layer, rest)])
        for prefix, stack in host.language.items()
        for layer, block in enumerate(stack.blocks[: len(fit.stacks.get(prefix, stack))])
        for rest in block
    )


def check_fit(
    host: Checkpoint, parents: Sequence[Checkpoint], *, vocabularies: bool = True
) -> None:
    """Check that every parent can be merged into the host, block i with block i or any other.

    Args:
        host: the parent that gives config and names.
        parents: all parents (the host may be among them).
        vocabularies: whether embeddings and head must have the host's shape (False when the rows
            are matched by token, `tokenizer: union`).

    Raises:
        CheckpointError: with the first differing tensor, both shapes and what could be done.
    """
    for parent in parents:
        if parent is not host:
            _check_parent(host, parent, Fit(host, parent), vocabularies)


def _check_parent(host: Checkpoint, parent: Checkpoint, fit: Fit, vocabularies: bool) -> None:
    answered = set(fit.outside.values())
    for name, place in host.places.items():
        if place in ("embeddings", "head") and not (host.tied and name == host.head):
            own = fit.outside.get(name)
            _check_tensor(host, name, parent, own, vocabularies)
    for name, place in parent.places.items():
        tied_copy = name == parent.head and (host.tied or parent.tied)
        if place in ("embeddings", "head") and name not in answered and not tied_copy:
            raise _surplus(host, parent, name)
    if host.tied and not parent.tied and parent.head is not None:
        raise CheckpointError(
            f"Parent {parent.reference!r} has an output head of its own ({parent.head}) while the "
            f"host {host.reference!r} uses its embeddings as head; make {parent.reference!r} the "
            "host (name it as base or first parent)."
        )
    _check_blocks(host, parent, fit)


def _check_blocks(host: Checkpoint, parent: Checkpoint, fit: Fit) -> None:
    for prefix, own in fit.stacks.items():
        for layer in range(len(own)):
            fit.block(prefix, layer)
        theirs = host.stacks[prefix]
        for layer in range(min(len(own), len(theirs))):
            for rest in theirs.blocks[layer]:
                name = theirs.name(layer, rest)
                if not is_buffer(rest, host.tensors[name]):
                    _check_tensor(host, name, parent, fit.inside(prefix, layer, rest), True)


def _check_tensor(
    host: Checkpoint, name: str, parent: Checkpoint, own: str | None, vocabularies: bool
) -> None:
    shape = host.tensors[name].shape
    if own is None:
        raise CheckpointError(
            f"Parents do not fit: tensor {name!r} {list(shape)} of {host.reference!r} has no "
            f"counterpart in {parent.reference!r}; {_advice(host, parent)}."
        )
    other = parent.tensors[own].shape
    if other == shape:
        return
    rows = name in host.token_tensors and other[1:] == shape[1:]
    if rows and not vocabularies:
        return
    advice = (
        "their vocabularies differ; set `tokenizer: union` to match the rows by token"
        if rows
        else _advice(host, parent)
    )
    raise CheckpointError(
        f"Parents do not fit: tensor {name!r} has shape {list(shape)} in {host.reference!r} and "
        f"{list(other)} in {parent.reference!r}; {advice}."
    )


def _advice(host: Checkpoint, parent: Checkpoint) -> str:
    kinds = [item.text_config.get("model_type") for item in (host, parent)]
    if kinds[0] != kinds[1]:
        return f"their architectures differ ({kinds[0]} and {kinds[1]})"
    return "parents must be of one architecture and size"


def _surplus(host: Checkpoint, parent: Checkpoint, name: str) -> CheckpointError:
    shape: Sequence[int] = parent.tensors[name].shape
    return CheckpointError(
        f"Parents do not fit: tensor {name!r} {list(shape)} of {parent.reference!r} has no "
        f"counterpart in the host {host.reference!r}; {_advice(host, parent)}."
    )
