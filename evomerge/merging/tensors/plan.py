"""Planning a recipe: how each tensor of the merged model is made. torch is not needed for this.

Which tensors a layer makes from which, its blocks alone decide: it is found once and kept. What a
further recipe of these blocks changes is knobs, seed and scales. Tensors that the recipe does not
merge are copied from the host: buffers, integer tensors, other modalities, stacks without layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from evomerge.errors import RecipeError, among
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Method, check_knobs
from evomerge.merging.tokenizers.rows import MatchedRows
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap
from evomerge.models.safetensors import TensorInfo
from evomerge.models.stacks import is_buffer, modality_of
from evomerge.recipe import DTYPES, MODALITIES, Layer, Recipe, Source, knob_at

if TYPE_CHECKING:
    from evomerge.merging.architecture.folding import Rescaling
    from evomerge.merging.kernels.compiled import Array

_MOST_BLOCKS = 1 << 10
"""Blocks of merged models whose tensors are kept; each takes 5 KB, of a mixture up to 300 KB."""

_BEFORE, _AFTER = "<before the stacks>", "<after the stacks>"
"""Sections of the host beside its stacks."""

_COPIES, _LACKING = "<copies>", "<what parents lack>"
"""Parts of a model that are the host's, as they are or in the recipe's dtype."""

_Knobs: TypeAlias = tuple[tuple[Mapping[str, float], ...], Mapping[str, float]]
"""The `source` knobs of every source, and the `merge` knobs."""

_Part: TypeAlias = str | tuple[str, int]
"""A part of a recipe: `embeddings`, `head`, a modality, or a stack and the position of a block."""


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor by its parent's reference and its name in this parent.

    `rows_of`: name in the host of a tensor with a row for each token, if its rows are matched by
    token; "": the tensor has its own rows.
    """

    parent: str
    name: str
    rows_of: str = ""


Read: TypeAlias = "Callable[[SourceTensor], Array]"
"""Returns a tensor of a parent, as an array of its bits that is read only."""

Change: TypeAlias = "Callable[[Read], Array]"
"""Returns a tensor in another form, given what reads the tensors of parents without this form."""


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """How one tensor of the merged model is made.

    Attributes:
        name: its name in the merged model (the host's naming).
        dtype: its dtype on disk, as safetensors headers spell it.
        method: name of the merge method, or None for a bit-for-bit copy of the only source.
        knobs: for each source, all of its `source` knobs.
        seed: the recipe's seed if the method is random, else 0.
        factor, offset: the result becomes (result + offset) * factor - offset before it is rounded,
            which folds the scales of layer routing. A factor of 1 changes nothing.
        tokens: whether it has a row for each token of the vocabulary.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    method: str | None
    sources: tuple[SourceTensor, ...]
    knobs: tuple[Mapping[str, float], ...] = ()
    base: SourceTensor | None = None
    merge_knobs: Mapping[str, float] | None = None
    seed: int = 0
    factor: float = 1.0
    offset: float = 0.0
    tokens: bool = False

    @property
    def inputs(self) -> tuple[SourceTensor, ...]:
        """The sources, and the base if there is one."""
        return (*self.sources, self.base) if self.base else self.sources


class _Origin(NamedTuple):
    """What of a layer decides which tensors it makes.

    `inputs` are (parent, block), of the first `sources` and of the base.
    """

    method: str
    inputs: tuple[tuple[str, int | None], ...]
    sources: int

    @classmethod
    def of(cls, layer: Layer) -> _Origin:
        inputs = tuple((item.parent, item.layer) for item in layer.inputs)
        return cls(layer.method, inputs, len(layer.sources))


class Planner:
    """Plans any number of recipes that have the same parents (by reference) and the same host.

    `vocabulary` is the merged one if rows of embeddings and head are matched by token, else None.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        host: str,
        vocabulary: MatchedRows | None = None,
    ) -> None:
        self.checkpoints, self.vocabulary = checkpoints, vocabulary
        self.host = self._parent(host)
        self._fits = {name: TensorNameMap(self.host, item) for name, item in checkpoints.items()}
        self.method = lru_cache(None)(get_method)
        self._block = lru_cache(_MOST_BLOCKS)(self._find_block)
        self._outside = lru_cache(64)(self._find_outside)
        self._unmerged = Layer("passthrough", (Source(host),))

    def plan(self, recipe: Recipe, beside: Recipe | None = None) -> Iterator[TensorPlan]:
        """Yield the plan of every tensor, embeddings first, blocks in order.

        With a recipe of the same depth `beside` it, only what is made in another way is planned.

        Raises:
            RecipeError: it names a parent, stack, block, method or knob that does not exist, or
                sources whose tensors have different shapes.
            CheckpointError: a parent has tensors that correspond to none of the host's.
        """
        rescalings = _rescalings(recipe, self.host)
        if beside is not None and rescalings != _rescalings(beside, self.host):
            beside = None  # a scale is folded into the weights of several layers
        others = {} if beside is None else {part: it for part, it, _ in self._parts(beside)}
        for part, layer, tensors in self._parts(recipe):
            if part in others and others[part] == layer:
                continue
            if layer is None:
                yield from tensors
                continue
            method, dtype = self.method(layer.method), DTYPES[recipe.dtype]
            knobs_at, seed = _knobs_of(layer, method), recipe.seed if method.random else 0
            for tensor in tensors:
                if tensor.method is None:
                    yield tensor
                    continue
                knobs, shared = knobs_at(tensor.name)
                plan = replace(tensor, dtype=dtype, knobs=knobs, merge_knobs=shared, seed=seed)
                scale = rescalings.get(tensor.name)
                yield replace(plan, factor=scale.factor, offset=scale.offset) if scale else plan

    def fit(self, reference: str) -> TensorNameMap:
        """Return which tensors of a parent correspond to which of the host."""
        self._parent(reference)
        return self._fits[reference]

    def _parts(
        self, recipe: Recipe
    ) -> Iterator[tuple[_Part, Layer | None, tuple[TensorPlan, ...]]]:
        """Yield each part of a recipe, its layer (None: copies), and its tensors without knobs."""
        outside: dict[str, Layer | None] = {"embeddings": recipe.embeddings, "head": recipe.head}
        outside |= {name: getattr(recipe, name) for name in MODALITIES}
        outside |= {_COPIES: None, _LACKING: self._unmerged}
        origins = tuple((part, layer and _Origin.of(layer)) for part, layer in outside.items())
        for prefix in recipe.layers:
            if prefix not in self.host.stacks:
                raise RecipeError(
                    f"layers.{prefix}: the host has no such block stack; it has "
                    f"{among(prefix, self.host.stacks)}"
                )
        for section in (_BEFORE, *self.host.stacks, _AFTER):
            if section in recipe.layers:
                for position, layer in enumerate(recipe.layers[section]):
                    tensors = self._block(section, position, _Origin.of(layer))
                    yield (section, position), layer, tensors
            else:
                for part, tensors in self._outside(section, origins):
                    yield part, outside[part], tensors

    def _find_outside(
        self, section: str, origins: Sequence[tuple[str, _Origin | None]]
    ) -> tuple[tuple[str, tuple[TensorPlan, ...]], ...]:
        """Return the tensors of a section of the model that the recipe has no blocks for, by part.

        It is a stack, or what comes before the stacks (embeddings) or after them (all others).
        """
        host, by_part = self.host, dict[str, Any](origins)
        for modality in filter(by_part.get, MODALITIES):
            for name in (host.reference, *(parent for parent, _ in by_part[modality].inputs)):
                if modality not in self._parent(name).modalities:
                    raise RecipeError(
                        f"`{modality}` is merged, but {name!r} has no tensors of this kind; name "
                        "only parents that have some, or remove the key."
                    )
        lacks = {name for it, _ in by_part["head"].inputs for name in self._parent(it).lacks}
        if section in host.stacks:
            names = [*host.stacks[section].names]
        else:
            of, is_before = host.places.items(), section == _BEFORE
            names = [name for name, place in of if is_before == (place == "embeddings")]
        tensors = []
        for name in names:
            part: str = host.places.get(name, "kept")
            if part in ("kept", "buffer"):
                is_trained = not is_buffer(name, host.tensors[name])
                part = (is_trained and modality_of(name)) or _COPIES
            elif name == host.head and host.tied:
                continue
            elif part == "head" and name in lacks:
                part = _LACKING
            if (origin := by_part[part]) is None:
                tensors.append((_COPIES, self._copy(name, SourceTensor(host.reference, name))))
                continue
            fits = [self.fit(parent) for parent, _ in origin.inputs]
            maps = [fit.modalities if part in MODALITIES else fit.non_layer for fit in fits]
            tensors.append((part, self._tensor(name, origin, [them.get(name) for them in maps])))
        runs = groupby(tensors, key=lambda pair: pair[0])
        return tuple((part, tuple(tensor for _, tensor in run)) for part, run in runs)

    def _find_block(self, prefix: str, position: int, origin: _Origin) -> tuple[TensorPlan, ...]:
        """Return the tensors of a block of the merged model, without knobs."""
        where = f"layers.{prefix}[{position}]"
        for parent, layer in origin.inputs:
            count = len(self.fit(parent).stacks.get(prefix, ()))
            if layer is None or not 0 <= layer < count:
                raise RecipeError(
                    f"{where}: layer of {parent!r} is {layer}; allowed are "
                    f"{f'0 to {count - 1}' if count else 'none: it has no such blocks'}."
                )
        if not origin.sources:
            raise RecipeError(f"{where} has no sources; name at least one.")
        blocks = [(self.fit(parent), layer or 0) for parent, layer in origin.inputs]
        tensors, (lead, index) = [], blocks[0]
        for suffix in lead.block(prefix, index, position):
            name = self.host.stacks[prefix].name(position, suffix)
            names = [fit.inside(prefix, layer, suffix) for fit, layer in blocks]
            source = SourceTensor(origin.inputs[0][0], names[0] or "")
            if names[0] is not None and is_buffer(suffix, self._info(source)):
                tensors.append(self._copy(name, source))
            else:
                tensors.append(self._tensor(name, origin, names))
        return tuple(tensors)

    def _tensor(self, name: str, origin: _Origin, names: Sequence[str | None]) -> TensorPlan:
        """Return a tensor that has these names in the parents of an origin's inputs."""
        tokens, inputs = name in self.host.token_tensors, []
        rows_of = name if tokens and self.vocabulary is not None else ""
        for (parent, _), name_there in zip(origin.inputs, names, strict=True):
            if name_there is None:
                raise RecipeError(f"Tensor {name!r} has no counterpart in {parent!r}; omit that.")
            inputs.append(SourceTensor(parent, name_there, rows_of))
        if not origin.sources:
            raise RecipeError(f"Tensor {name!r} has no sources; name at least one.")
        sources, base = tuple(inputs[: origin.sources]), next(iter(inputs[origin.sources :]), None)
        # Integer and boolean buffers (position ids, masks) have no meaningful average.
        if not all(self._info(item).floating for item in inputs):
            return self._copy(name, base or inputs[0])
        base = base if self.method(origin.method).base != "none" else None
        shape = self._shape(name, inputs)
        return TensorPlan(name, shape, "", origin.method, sources, base=base, tokens=tokens)

    def _copy(self, name: str, source: SourceTensor) -> TensorPlan:
        info = self._info(source)
        return TensorPlan(name, info.shape, info.dtype, None, (source,))

    def _shape(self, name: str, inputs: Sequence[SourceTensor]) -> tuple[int, ...]:
        shapes = {item.parent: self._info(item).shape for item in inputs}
        shape = self._info(inputs[0]).shape
        if self.vocabulary is not None and inputs[0].rows_of:
            return (self.vocabulary.size, *shape[1:])
        if len(set(shapes.values())) > 1:
            told = ", ".join(f"{list(shape)} in {parent!r}" for parent, shape in shapes.items())
            raise RecipeError(
                f"Tensor {name!r} has different shapes: {told}; merge parents of one size; if only "
                "vocabularies differ, set `tokenizer: union` (mergekit: `tokenizer_source: union`)."
            )
        return shape

    def _info(self, source: SourceTensor) -> TensorInfo:
        return self.checkpoints[source.parent].tensors[source.name]

    def _parent(self, reference: str) -> Checkpoint:
        if reference not in self.checkpoints:
            raise RecipeError(
                f"Parent {reference!r} was not opened; name one of {', '.join(self.checkpoints)}."
            )
        return self.checkpoints[reference]


def _knobs_of(layer: Layer, method: Method) -> Callable[[str], _Knobs]:
    """Return what gives a layer's knobs by name of a tensor; without filters, checked only once."""
    parts = [layer.knobs, *(source.knobs for source in layer.sources)]
    has_base = layer.base is not None

    def complete(knobs: Sequence[Mapping[str, Any]]) -> _Knobs:
        shared, *of_sources = knobs
        sources, merge_knobs = check_knobs(method, of_sources, shared, has_base=has_base)
        return tuple(sources), merge_knobs

    def resolve(name: str) -> _Knobs:
        return complete([{key: knob_at(it, name) for key, it in knobs.items()} for knobs in parts])

    if not all(isinstance(knob, float) for knobs in parts for knob in knobs.values()):
        return resolve
    fixed = complete(parts)
    return lambda _: fixed


def _rescalings(recipe: Recipe, host: Checkpoint) -> Mapping[str, Rescaling]:
    if all(layer.scale == 1 for layers in recipe.layers.values() for layer in layers):
        return {}
    from evomerge.merging.architecture.folding import fold_scales

    return fold_scales(recipe, host)
