"""Planning a recipe: how each tensor of the merged model is made. torch is not needed for this.

Tensors that the recipe does not merge are copied from the host: buffers, integer tensors, other
modalities and stacks that it does not name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from evomerge.errors import RecipeError, did_you_mean
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import check_knobs
from evomerge.merging.tokenizers.rows import MatchedRows
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap
from evomerge.models.safetensors import TensorInfo
from evomerge.models.stacks import is_buffer, modality_of
from evomerge.recipe import Layer, Recipe, Source, knob_at

if TYPE_CHECKING:
    from evomerge.merging.architecture.folding import Rescaling

_Knobs: TypeAlias = tuple[tuple[Mapping[str, float], ...], Mapping[str, float]]
"""The `source` knobs of every source, and the `merge` knobs."""

_KnobsAt: TypeAlias = Callable[[str], _Knobs]
"""Returns the knobs for a tensor, given its name."""

STORED = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}
"""dtype of a recipe -> the same dtype as safetensors headers spell it."""


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor by its parent's reference and its name in this parent."""

    parent: str
    name: str


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

    @property
    def inputs(self) -> tuple[SourceTensor, ...]:
        """The sources, and the base if there is one."""
        return (*self.sources, self.base) if self.base else self.sources


class Planner:
    """Plans any number of recipes that have the same parents (by reference) and the same host."""

    def __init__(self, checkpoints: Mapping[str, Checkpoint], host: str) -> None:
        self.checkpoints = checkpoints
        self.host = self._parent(host)
        self._fits = {name: TensorNameMap(self.host, item) for name, item in checkpoints.items()}

    def plan(
        self, recipe: Recipe, vocabulary: MatchedRows | None = None, beside: Recipe | None = None
    ) -> Iterator[TensorPlan]:
        """Yield the plan of every tensor, embeddings first, blocks in order.

        Args:
            vocabulary: the merged vocabulary if rows of embeddings and head are matched by token.
            beside: a recipe of the same depth; only what is made in another way is planned.

        Raises:
            RecipeError: it names a parent, stack, block, method or knob that does not exist, or
                sources whose tensors have different shapes.
            CheckpointError: a parent has tensors that correspond to none of the host's.
        """
        self.check_blocks(recipe)
        rescalings = _rescalings(recipe, self.host)
        if beside is not None and rescalings != _rescalings(beside, self.host):
            beside = None  # a scale is folded into the weights of several layers
        planner, places = _RecipePlanner(self, recipe, vocabulary, rescalings), self.host.places
        same_embeddings = beside is not None and beside.embeddings == recipe.embeddings
        same_head = beside is not None and beside.head == recipe.head
        for name, place in places.items():
            if place == "embeddings" and not same_embeddings:
                yield planner.outside(name, recipe.embeddings)
        for prefix in self.host.stacks:
            yield from planner.stack(prefix, beside)
        for name, place in places.items():
            if place in ("kept", "buffer"):
                yield from planner.unlisted(name, beside)
            elif place == "head" and not (same_head or (name == self.host.head and self.host.tied)):
                lacks = (self._parent(source.parent).lacks for source in recipe.head.inputs)
                copied = Layer("passthrough", (Source(recipe.host),))
                yield planner.outside(name, copied if name in set().union(*lacks) else recipe.head)

    def check_blocks(self, recipe: Recipe) -> None:
        """Raise `RecipeError` unless the parents have what a recipe names."""
        for modality, layer in recipe.modalities.items():
            for name in (recipe.host, *(source.parent for source in layer.inputs)):
                if modality not in self._parent(name).modalities:
                    raise RecipeError(
                        f"`{modality}` is merged, but {name!r} has no tensors of this kind; name "
                        "only parents that have some, or remove the key."
                    )
        for prefix, layers in recipe.layers.items():
            if prefix not in self.host.stacks:
                raise RecipeError(
                    f"layers.{prefix}: the host has no such block stack; it has "
                    f"{', '.join(self.host.stacks)}.{did_you_mean(prefix, self.host.stacks)}"
                )
            for position, layer in enumerate(layers):
                where = f"layers.{prefix}[{position}]"
                for source in layer.inputs:
                    count = len(self.fit(source.parent).stacks.get(prefix, ()))
                    if source.layer is None or not 0 <= source.layer < count:
                        raise RecipeError(
                            f"{where}: layer of {source.parent!r} is {source.layer}; allowed are "
                            f"{f'0 to {count - 1}' if count else 'none: it has no such blocks'}."
                        )
                if not layer.sources:
                    raise RecipeError(f"{where} has no sources; name at least one.")

    def fit(self, reference: str) -> TensorNameMap:
        """Return which tensors of a parent correspond to which of the host."""
        self._parent(reference)
        return self._fits[reference]

    def _parent(self, reference: str) -> Checkpoint:
        if reference not in self.checkpoints:
            raise RecipeError(
                f"Parent {reference!r} was not opened; name one of {', '.join(self.checkpoints)}."
            )
        return self.checkpoints[reference]


@dataclass(frozen=True)
class _RecipePlanner:
    """Plans the tensors of one recipe."""

    planner: Planner
    recipe: Recipe
    vocabulary: MatchedRows | None
    rescalings: Mapping[str, Rescaling]

    def copy(self, name: str, source: SourceTensor) -> TensorPlan:
        info = self._info(source)
        return TensorPlan(name, info.shape, info.dtype, None, (source,))

    def outside(self, name: str, layer: Layer) -> TensorPlan:
        """Plan a tensor outside of the blocks, which `layer` says how to merge."""
        fits = [self.planner.fit(source.parent) for source in layer.inputs]
        return self._make(name, layer, [fit.non_layer.get(name) for fit in fits], _knobs_of(layer))

    def stack(self, prefix: str, beside: Recipe | None) -> Iterator[TensorPlan]:
        """Plan the blocks of one stack, which the recipe may name."""
        stack = self.planner.host.stacks[prefix]
        if prefix not in self.recipe.layers:
            for index, block in enumerate(stack.blocks):
                for suffix in block:
                    yield from self.unlisted(stack.name(index, suffix), beside)
            return
        for position, layer in enumerate(self.recipe.layers[prefix]):
            if beside is None or beside.layers[prefix][position] != layer:
                yield from self._block(prefix, position, layer)

    def unlisted(self, name: str, beside: Recipe | None) -> Iterator[TensorPlan]:
        """Plan a tensor that the recipe does not list: merge its modality, or copy the host's."""
        modality = modality_of(name) or ""
        merged = self.recipe.modalities.get(modality)
        if beside is not None and beside.modalities.get(modality) == merged:
            return
        own = SourceTensor(self.recipe.host, name)
        if merged is None or is_buffer(name, self._info(own)):
            yield self.copy(name, own)
            return
        fits = [self.planner.fit(source.parent) for source in merged.inputs]
        names = [fit.modalities.get(name) for fit in fits]
        yield self._make(name, merged, names, self._modality_knobs[modality])

    @cached_property
    def _modality_knobs(self) -> Mapping[str, _KnobsAt]:
        return {name: _knobs_of(layer) for name, layer in self.recipe.modalities.items()}

    def _block(self, prefix: str, position: int, layer: Layer) -> Iterator[TensorPlan]:
        lead, knobs, stack = layer.sources[0], _knobs_of(layer), self.planner.host.stacks[prefix]
        blocks = [(self.planner.fit(item.parent), item.layer or 0) for item in layer.inputs]
        for suffix in blocks[0][0].block(prefix, blocks[0][1], position):
            name = stack.name(position, suffix)
            names = [fit.inside(prefix, block, suffix) for fit, block in blocks]
            own = SourceTensor(lead.parent, names[0] or "")
            if names[0] is not None and is_buffer(suffix, self._info(own)):
                yield self.copy(name, own)
            else:
                yield self._make(name, layer, names, knobs)

    def _make(
        self, name: str, layer: Layer, names: Sequence[str | None], knobs: _KnobsAt
    ) -> TensorPlan:
        """Plan a tensor that has these names in the parents of the layer's inputs."""
        inputs = []
        for source, own in zip(layer.inputs, names, strict=True):
            if own is None:
                raise RecipeError(
                    f"Tensor {name!r} has no counterpart in {source.parent!r}; leave that out."
                )
            inputs.append(SourceTensor(source.parent, own))
        if not layer.sources:
            raise RecipeError(f"Tensor {name!r} has no sources; name at least one.")
        base = inputs[-1] if layer.base else None
        # Integer and boolean buffers (position ids, masks) have no meaningful average.
        if not all(self._info(item).floating for item in inputs):
            return self.copy(name, base or inputs[0])
        own_knobs, shared = knobs(name)
        rescaling, method = self.rescalings.get(name), get_method(layer.method)
        return TensorPlan(
            name=name,
            shape=self._shape(name, inputs),
            dtype=STORED[self.recipe.dtype],
            method=layer.method,
            sources=tuple(inputs[: len(layer.sources)]),
            knobs=own_knobs,
            base=base if method.base != "none" else None,
            merge_knobs=shared,
            seed=self.recipe.seed if method.random else 0,
            factor=rescaling.factor if rescaling else 1.0,
            offset=rescaling.offset if rescaling else 0.0,
        )

    def _shape(self, name: str, inputs: Sequence[SourceTensor]) -> tuple[int, ...]:
        shapes = {item.parent: self._info(item).shape for item in inputs}
        host = self.planner.host
        if self.vocabulary is not None and name in host.token_tensors:
            return (self.vocabulary.size, *self._info(inputs[0]).shape[1:])
        if len(set(shapes.values())) > 1:
            told = ", ".join(f"{list(shape)} in {parent!r}" for parent, shape in shapes.items())
            raise RecipeError(
                f"Tensor {name!r} has different shapes: {told}; merge parents of one size; if only "
                "vocabularies differ, set `tokenizer: union` (mergekit: `tokenizer_source: union`)."
            )
        return self._info(inputs[0]).shape

    def _info(self, source: SourceTensor) -> TensorInfo:
        return self.planner.checkpoints[source.parent].tensors[source.name]


def _knobs_of(layer: Layer) -> _KnobsAt:
    """Return what gives a layer's knobs; without filters they are checked only once."""
    given = [layer.knobs, *(source.knobs for source in layer.sources)]

    def resolve(name: str) -> _Knobs:
        shared, *own = ({key: knob_at(it, name) for key, it in knobs.items()} for knobs in given)
        has_base = layer.base is not None
        sources, complete = check_knobs(get_method(layer.method), own, shared, has_base=has_base)
        return tuple(sources), complete

    if not all(isinstance(knob, float) for knobs in given for knob in knobs.values()):
        return resolve
    fixed = resolve("")
    return lambda _: fixed


def _rescalings(recipe: Recipe, host: Checkpoint) -> Mapping[str, Rescaling]:
    if all(layer.scale == 1 for layer in recipe.every_layer()):
        return {}
    from evomerge.merging.architecture.folding import fold_scales

    return fold_scales(recipe, host)
