"""How the weights of parents differ from those of a base, and from each other, in one pass.

All figures follow from sums over the elements of each part of the model (a component of a layer,
the embeddings, the head): with r the base and d_i = parent i - r, the products of each two of
r, d_1, ..., d_n (a Gram matrix), and counts of the elements that changed, and that changed with
different signs. Sums over more parts add up. Without a base, r is the first parent: distances
between parents do not depend on it.

Weights are read in float32 and multiplied in blocks that fit in a processor's cache, and added up
in float64. torch is not imported, unless a parent has an adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from evomerge.merging.tensors.adapters import adapter_patches
from evomerge.merging.tensors.plan import SourceTensor
from evomerge.merging.tensors.reader import TensorReader
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap
from evomerge.models.stacks import component_of, is_buffer, modality_of

Floats: TypeAlias = npt.NDArray[np.float64]

_COMPONENTS = ("attention", "mlp", "embeddings", "head", "norm", "other")
_MATRICES = ("attention", "mlp")
_BLOCK = 1 << 16  # elements, 256 KB of float32 for each model


class Part(NamedTuple):
    """A part of a model: a component, and the layer that it is in (None: in no layer)."""

    component: str
    layer: int | None


@dataclass
class Sums:
    """Sums over the elements of a part of n parents; `+` adds up those of several parts.

    Attributes:
        elements: number of elements.
        products: of each two of r, d_1, ..., d_n, shape (n + 1, n + 1).
        changed: number of elements that parent i changed, on the diagonal; that both i and j
            changed elsewhere. Shape (n, n), as of `conflicts`.
        conflicts: number of elements that i and j changed with different signs.
    """

    elements: int
    products: Floats
    changed: npt.NDArray[np.int64]
    conflicts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, parents: int) -> Sums:
        """Return the sums over no elements."""
        square = (parents, parents)
        products = np.zeros((parents + 1, parents + 1))
        return cls(0, products, np.zeros(square, np.int64), np.zeros(square, np.int64))

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.elements + other.elements,
            self.products + other.products,
            self.changed + other.changed,
            self.conflicts + other.conflicts,
        )

    def add(self, block: npt.NDArray[np.float32]) -> None:
        """Add elements of r, d_1, ..., d_n, shape (n + 1, elements)."""
        changes = block[1:]
        self.elements += block.shape[1]
        self.products += block @ block.T
        up, down = changes > 0, changes < 0
        for i in range(len(changes)):
            self.changed[i, i] += np.count_nonzero(changes[i])
            for j in range(i):
                apart = np.count_nonzero(up[i] & down[j]) + np.count_nonzero(down[i] & up[j])
                alike = np.count_nonzero(up[i] & up[j]) + np.count_nonzero(down[i] & down[j])
                self.conflicts[[i, j], [j, i]] += apart
                self.changed[[i, j], [j, i]] += apart + alike

    @property
    def norms(self) -> Floats:
        """Norm of each parent's change, shape (n,)."""
        return np.sqrt(np.diagonal(self.products)[1:])

    @property
    def change(self) -> Floats:
        """Norm of each parent's change as a share of the norm of r, shape (n,); nan: r is 0."""
        return _ratio(self.norms, np.sqrt(self.products[0, 0]))

    @property
    def changed_share(self) -> Floats:
        """Share of the elements that each parent changed, shape (n,)."""
        return _ratio(np.diagonal(self.changed), np.float64(self.elements))

    @property
    def cosines(self) -> Floats:
        """Cosine between the changes of each two parents, shape (n, n); nan: one has none."""
        return _ratio(self.products[1:, 1:], np.outer(self.norms, self.norms))

    @property
    def conflict_share(self) -> Floats:
        """Of the elements that both changed, the share with different signs; nan: there are none.

        Shape (n, n).
        """
        return _ratio(self.conflicts, self.changed)

    @property
    def weight_norms(self) -> Floats:
        """Norm of each parent's weights, shape (n,)."""
        r_r, r_d = self.products[0, 0], self.products[0, 1:]
        squares = r_r + 2 * r_d + np.diagonal(self.products)[1:]
        norms: Floats = np.sqrt(np.maximum(squares, 0.0))
        return norms

    @property
    def distances(self) -> Floats:
        """Distance between the weights of each two parents, as a share of their mean norm.

        Shape (n, n).
        """
        d_d = self.products[1:, 1:]
        squares = np.diagonal(d_d)[:, None] + np.diagonal(d_d)[None] - 2 * d_d
        norms = self.weight_norms
        return _ratio(np.sqrt(np.maximum(squares, 0.0)), (norms[:, None] + norms[None]) / 2)

    @property
    def weight_cosines(self) -> Floats:
        """Cosine between the weights of each two parents, shape (n, n)."""
        r_r, r_d = self.products[0, 0], self.products[0, 1:]
        products = r_r + r_d[:, None] + r_d[None] + self.products[1:, 1:]
        return _ratio(products, np.outer(self.weight_norms, self.weight_norms))


@dataclass(frozen=True)
class Weights:
    """The sums of each part of the parents.

    Attributes:
        parts: the sums; parts in layers in the order of the layers.
        layers: number of layers that are compared.
        left_out: names of the host's tensors that some model lacks, or has in another shape.
    """

    parts: Mapping[Part, Sums]
    layers: int
    left_out: Sequence[str] = field(default=(), repr=False)

    @property
    def whole(self) -> Sums:
        """The sums of the whole model."""
        return self._sum(self.parts)

    @property
    def components(self) -> dict[str, Sums]:
        """Component -> its sums over all layers, in the order of `_COMPONENTS`."""
        names = dict.fromkeys([*_COMPONENTS, *(part.component for part in self.parts)])
        found = {n: [part for part in self.parts if part.component == n] for n in names}
        return {name: self._sum(parts) for name, parts in found.items() if parts}

    @property
    def matrices(self) -> Sums:
        """The sums of attention and mlp in all layers; of the whole model where it has none."""
        return self._sum([part for part in self.parts if part.component in _MATRICES] or self.parts)

    @property
    def by_layer(self) -> list[Sums]:
        """The sums of each layer, with all components in it."""
        return [
            self._sum(part for part in self.parts if part.layer == layer)
            for layer in range(self.layers)
        ]

    def _sum(self, parts: Iterator[Part] | Mapping[Part, Sums] | Sequence[Part]) -> Sums:
        first, *others = (self.parts[part] for part in parts)
        return sum(others, start=first)


def compare_weights(base: Checkpoint | None, parents: Sequence[Checkpoint]) -> Weights:
    """Read all weights once, and return the sums.

    Args:
        base: what the changes are measured from; None: the first parent.
        parents: of one architecture, with tensors that correspond (`check_fit`).

    Raises:
        CheckpointError: a file changed since it was opened, or an adapter is damaged.
    """
    host = parents[0] if base is None else base
    models = [host, *parents]
    maps = [TensorNameMap(host, model) for model in models]
    known = {str(number): model for number, model in enumerate(models)}
    reader = TensorReader(known, adapter_patches(known))
    room = np.empty((len(models), _BLOCK), np.float32)
    parts: dict[Part, Sums] = {}
    left_out = []
    for part, names in _tensors(host, maps):
        found = [(str(number), name) for number, name in enumerate(names[1:]) if name is not None]
        shapes = {known[number].tensors[name].shape for number, name in found}
        if len(found) < len(models) or len(shapes) > 1:
            left_out.append(names[0] or "")
            continue
        sums = parts.setdefault(part, Sums.of(len(parents)))
        sources = [SourceTensor(number, name) for number, name in found]
        flat = [reader.read(source).reshape(-1) for source in sources]
        for start in range(0, len(flat[0]), _BLOCK):
            first, *others = (_float32(item[start : start + _BLOCK]) for item in flat)
            block = room[:, : len(first)]
            block[0] = first
            for row, values in zip(block[1:], others, strict=True):
                np.subtract(values, first, out=row)
            sums.add(block)
        for source in sources:
            reader.release(source)
    layers = 1 + max((part.layer for part in parts if part.layer is not None), default=-1)
    ordered = sorted(parts.items(), key=lambda item: -1 if item[0].layer is None else item[0].layer)
    return Weights(dict(ordered), layers, left_out)


def _tensors(
    host: Checkpoint, maps: Sequence[TensorNameMap]
) -> Iterator[tuple[Part, list[str | None]]]:
    """Yield each trained tensor of the host with its part: its name, then that in each model."""
    for prefix, stack in host.language.items():
        for layer, block in enumerate(stack.blocks):
            for suffix in block:
                name = stack.name(layer, suffix)
                if _is_trained(host, name):
                    part = Part(component_of(suffix)[0] or "other", layer)
                    yield part, [name, *(item.inside(prefix, layer, suffix) for item in maps)]
    for name, place in host.places.items():
        tied = name == host.head and host.tied
        if place in ("embeddings", "head") and _is_trained(host, name) and not tied:
            yield Part(place, None), [name, *(item.non_layer.get(name) for item in maps)]
    for modality, names in host.modalities.items():
        for name in names:
            yield Part(modality, None), [name, *(item.modalities.get(name) for item in maps)]


def _is_trained(host: Checkpoint, name: str) -> bool:
    info = host.tensors[name]
    return info.floating and not is_buffer(name, info) and modality_of(name) is None


def _float32(stored: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Return stored weights as float32; arrays of uint16 are bfloat16, of int16 float16."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if stored.dtype == np.int16:
        stored = stored.view(np.float16)
    return stored.astype(np.float32, copy=False)


def _ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> Floats:
    """Return a quotient; nan where it would be by 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(np.asarray(below) == 0, np.nan, np.divide(above, below))
        return found
