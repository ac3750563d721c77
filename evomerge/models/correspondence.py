"""Which tensor of a parent corresponds to which tensor of the host, and whether the shapes fit.

The names of the same tensor differ between versions of transformers, and between a language model
alone and the same one inside of a vision-language model. So names are compared without the prefixes
of wrapper modules (`model.`, `language_model.`, the model type), and with the old names of
LayerNorm parameters (`gamma`, `beta`) replaced by the new ones.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import chain

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.stacks import Stack, is_buffer, is_other_modality

_WRAPPERS = frozenset(
    {"model", "language_model", "text_model", "llm", "base_model", "transformer", "backbone"}
    | {"roberta", "deberta"}  # of types that are called camembert, xlm-roberta or deberta-v2
)
_SEEING = re.compile(r"(_5)?_vl(_text)?$")
"""The end of the type of a model that sees, whose text model computes the same without it."""

_NEW_NAMES = {"gamma": "weight", "beta": "bias"}


def normal(name: str, checkpoint: Checkpoint) -> str:
    """Return the form of a tensor's or stack's name in which names of parents are compared.

    It is without wrapper modules, and has the new names of LayerNorm parameters.
    """
    kinds = {
        str(part.get("model_type", "")) for part in (checkpoint.config, checkpoint.text_config)
    }
    dropped = _WRAPPERS | kinds | {kind.replace("-", "_") for kind in kinds}
    words = name.split(".")
    while len(words) > 1 and words[0] in dropped:
        words = words[1:]
    return _with_new_names(".".join(words))


class TensorNameMap:
    """Maps the names of the host's tensors to those of one parent, which may be the host.

    In the methods, `prefix` is that of a stack of the host, and `suffix` the host's name of a
    tensor inside of its block (`mlp.up_proj.weight`).
    """

    def __init__(self, host: Checkpoint, parent: Checkpoint) -> None:
        self.host, self.parent = host, parent

    def _matched(self, ours: Iterable[str], theirs: Iterable[str]) -> dict[str, str]:
        """Return the parent's name of each of the host's names that it has."""
        by_name = {normal(name, self.parent): name for name in theirs}
        names = {name: by_name.get(normal(name, self.host)) for name in ours}
        return {name: other for name, other in names.items() if other is not None}

    @cached_property
    def stacks(self) -> dict[str, Stack]:
        """Prefix of a stack of the host -> the parent's stack, for the stacks that it has."""
        if self.parent is self.host:
            return self.host.stacks
        prefixes = self._matched(self.host.stacks, self.parent.stacks)
        first = {self.host.decoder_stack.prefix: self.parent.decoder_stack}
        return first | {prefix: self.parent.stacks[other] for prefix, other in prefixes.items()}

    @cached_property
    def non_layer(self) -> dict[str, str]:
        """Name in the host -> name in the parent, for the parent's tensors outside of the blocks.

        The host's head corresponds to the embedding matrix of a parent whose embeddings are tied.
        """
        names = self._matched(self.host.places, self.parent.places)
        head, embedding = self.host.head, self.parent.embedding
        if head and embedding and (head not in names or self.parent.tied):
            names[head] = embedding
        return names

    @cached_property
    def modalities(self) -> dict[str, str]:
        """Name in the host -> name in the parent, for tensors of other modalities."""
        ours, theirs = (item.modalities.values() for item in (self.host, self.parent))
        return self._matched(chain.from_iterable(ours), chain.from_iterable(theirs))

    @cached_property
    def _parent_suffixes(self) -> dict[str, dict[str, str]]:
        return {prefix: _by_new_name(stack) for prefix, stack in self.stacks.items()}

    @cached_property
    def _host_suffixes(self) -> dict[str, dict[str, str]]:
        return {prefix: _by_new_name(stack) for prefix, stack in self.host.stacks.items()}

    def inside(self, prefix: str, layer: int, suffix: str) -> str | None:
        """Return the full name of a tensor of the parent's block `layer`, or None if it has none.

        A tensor that all blocks share is in the first.
        """
        suffix_there = self._parent_suffixes.get(prefix, {}).get(_with_new_names(suffix))
        name = None if suffix_there is None else self.stacks[prefix].used(layer, suffix_there)
        return name if name in self.parent.tensors else None

    def block(self, prefix: str, layer: int, position: int) -> tuple[str, ...]:
        """Return the tensors of the parent's block `layer`, by the host's names inside of a block.

        In the merged model, the block stands at `position`.
        """
        known, stack = self._host_suffixes[prefix], self.stacks[prefix]
        names = []
        for suffix in stack.moved(layer, position):
            name = stack.used(layer, suffix)
            if (own := known.get(_with_new_names(suffix))) is not None:
                names.append(own)
            elif not is_buffer(suffix, self.parent.tensors[name]):
                raise _surplus(self.host, self.parent, name)
        return tuple(names)


@lru_cache(maxsize=1 << 14)
def _with_new_names(name: str) -> str:
    stem, _, last = name.rpartition(".")
    return f"{stem}.{_NEW_NAMES[last]}" if stem and last in _NEW_NAMES else name


def _by_new_name(stack: Stack) -> dict[str, str]:
    """Return the names inside of the blocks of a stack, by the names that are compared."""
    return {_with_new_names(suffix): suffix for block in stack.blocks for suffix in block}


def has_counterparts(host: Checkpoint, parent: Checkpoint) -> bool:
    """Whether a parent has a tensor for every tensor of the host that can be merged, by names."""
    fit = TensorNameMap(host, parent)
    if any(name not in fit.modalities for names in host.modalities.values() for name in names):
        return False
    for name, place in host.places.items():
        tied = name == host.head and host.tied
        if place in ("embeddings", "head") and name not in fit.non_layer and not tied:
            return False
    return all(
        fit.inside(prefix, layer, suffix)
        or is_buffer(suffix, host.tensors[stack.name(layer, suffix)])
        for prefix, stack in host.language.items()
        for layer, block in enumerate(stack.blocks[: len(fit.stacks.get(prefix, stack))])
        for suffix in block
    )


def check_fit(
    host: Checkpoint,
    parents: Sequence[Checkpoint],
    *,
    vocabularies: bool = True,
    tokenizer: str = "tokenizer",
) -> None:
    """Check that every parent has the tensors of the host, in the same shapes, and no others.

    The numbers of blocks may differ. Other modalities are not compared (`parts.py` does that).
    Where the rows are matched by token, `vocabularies` is false: their numbers may differ, too.
    `tokenizer` is the key for this in the file that names the parents.

    CheckpointError: a tensor differs; the message has its name, both shapes and a remedy.
    """
    for parent in parents:
        if parent is not host:
            _check_parent(host, parent, tokenizer if vocabularies else None)


def _check_parent(host: Checkpoint, parent: Checkpoint, key: str | None) -> None:
    """Check one parent; `key` would let the vocabularies differ, and None says that they may."""
    fit = TensorNameMap(host, parent)
    matched = set(fit.non_layer.values())
    for name, place in host.places.items():
        lacks = name in parent.lacks or (host.tied and name == host.head)
        if place in ("embeddings", "head") and not lacks:
            _check_tensor(host, name, parent, fit.non_layer.get(name), key)
            if key is None and host.tensors[name].shape == (1, host.vocabulary):
                raise CheckpointError(
                    f"Tensor {name!r} of {host.reference!r} has a column for each token, and "
                    "`tokenizer: union` matches rows only; set it to base."
                )
    for name, place in parent.places.items():
        tied_copy = name == parent.head and (host.tied or parent.tied)
        if place in ("embeddings", "head") and name not in matched and not tied_copy:
            raise _surplus(host, parent, name)
    if host.tied and not parent.tied and parent.head is not None:
        raise CheckpointError(
            f"Parent {parent.reference!r} has an output head of its own ({parent.head}) while the "
            f"host {host.reference!r} uses its embeddings; make {parent.reference!r} the host."
        )
    for prefix, stack in fit.stacks.items():
        if is_other_modality(prefix):
            continue
        for layer in range(len(stack)):
            fit.block(prefix, layer, layer)
        theirs = host.stacks[prefix]
        for layer in range(min(len(stack), len(theirs))):
            for suffix in theirs.blocks[layer]:
                name = theirs.name(layer, suffix)
                if not is_buffer(suffix, host.tensors[name]):
                    _check_tensor(host, name, parent, fit.inside(prefix, layer, suffix), None)


def _check_tensor(
    host: Checkpoint, name: str, parent: Checkpoint, own: str | None, key: str | None
) -> None:
    shape = host.tensors[name].shape
    other = None if own is None else parent.tensors[own].shape
    only_rows_differ = other and name in host.token_tensors and other[1:] == shape[1:]
    if other == shape or (only_rows_differ and key is None):
        return
    if other is None:
        why = f"{list(shape)} of {host.reference!r} has no counterpart in {parent.reference!r}"
        advice = _advice(host, parent, of_head=host.places.get(name) == "head")
    else:
        here, there = repr(host.reference), repr(parent.reference)
        why = f"has shape {list(shape)} in {here} and {list(other)} in {there}"
        advice = _advice(host, parent)
    if only_rows_differ:
        advice = f"their vocabularies differ; set `{key}: union` to match the rows by token"
    raise CheckpointError(f"Parents do not fit: tensor {name!r} {why}; {advice}.")


def _advice(host: Checkpoint, parent: Checkpoint, *, of_head: bool = False) -> str:
    """Return why two models do not fit, and what to do; `of_head`: one of them lacks a head."""
    kinds = [item.text_config.get("model_type") for item in (host, parent)]
    if kinds[0] != kinds[1]:
        return f"their architectures differ ({kinds[0]} and {kinds[1]})"
    one, other = (str((c.config.get("architectures") or ["?"])[0]) for c in (host, parent))
    if of_head and one != other:
        return (
            f"the host is a {one}, {parent.reference!r} a {other}, and their heads differ; name "
            "another host with `space.host`, or leave one out"
        )
    return "all parents must have the same architecture and size"


def _surplus(host: Checkpoint, parent: Checkpoint, name: str) -> CheckpointError:
    advice = _advice(host, parent, of_head=parent.places.get(name) == "head")
    if parent.module_of(name) and host.modules is None:
        advice = f"the host has no modules.json; name {parent.reference!r} with `space.host`"
    return CheckpointError(
        f"Parents do not fit: tensor {name!r} {list(parent.tensors[name].shape)} of "
        f"{parent.reference!r} has no counterpart in the host {host.reference!r}; {advice}."
    )


def type_notes(checkpoints: Iterable[Checkpoint]) -> list[str]:
    """Return a warning if parents have language models of different types, the host first."""
    by_type: dict[str, str] = {}
    for checkpoint in checkpoints:
        kind = checkpoint.text_config.get("model_type")
        if isinstance(kind, str):
            by_type.setdefault(_SEEING.sub("", kind), checkpoint.reference)
    if len(by_type) < 2:
        return []
    told = ", ".join(f"{kind} ({reference})" for kind, reference in by_type.items())
    return [
        f"Parents have different model types: {told}; their tensors fit, but the types may compute "
        f"different things with them, and the merge is a {next(iter(by_type))} model; merge models "
        "of one type unless you know that they compute the same."
    ]
