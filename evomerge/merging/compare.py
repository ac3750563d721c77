"""How parents differ before they are merged: their weights, tokens and chat templates.

All figures follow from the products of each two of r, d_1, ..., d_n (a Gram matrix), with r the
weights of the base (without one, of the first parent) and d_i = parent i - r. Weights are read
once, in blocks that fit in a processor's cache, multiplied in float32 and added up in float64.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from evomerge.errors import CheckpointError
from evomerge.merging.kernels.passes import write_copy
from evomerge.merging.tensors.plan import SourceTensor
from evomerge.merging.tensors.reader import TensorReader
from evomerge.merging.tokenizers.tokens import Tokens
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap
from evomerge.models.stacks import component_of, is_buffer
from evomerge.recipe import MODALITIES

_Floats: TypeAlias = npt.NDArray[np.float64]

_BLOCK = 1 << 16  # elements, 256 KB of float32 for each model
_COLUMNS = ("attention", "mlp", "embeddings", "head", *MODALITIES)


@dataclass(frozen=True, kw_only=True)
class ParentComparison:
    """How parents differ from their base, or without one from each other.

    Attributes:
        base: reference of what changes are measured from, or None.
        parents: their references.
        names: reference -> short name, of base and parents.
        products: component -> Gram matrix, shape (n + 1, n + 1).
        notes: how tokens and templates differ, and which tensors are not compared, in sentences.
    """

    base: str | None
    parents: Sequence[str]
    names: Mapping[str, str]
    products: Mapping[str, _Floats]
    notes: Sequence[str]

    def change(self, component: str | None = None) -> _Floats:
        """Return the norm of each parent's change as a share of the base's, shape (n,)."""
        gram = self._total if component is None else self.products[component]
        return _ratio(np.sqrt(np.diagonal(gram)[1:]), np.sqrt(gram[0, 0]))

    def cosines(self) -> _Floats:
        """Return the cosine between the task vectors of each two parents, shape (n, n).

        Without a base, between their weights. It is nan if a parent has not changed.
        """
        gram = self._total
        inner = gram[1:, 1:]
        if self.base is None:
            inner = gram[0, 0] + gram[0, 1:, None] + gram[0, None, 1:] + inner
        norms = np.sqrt(np.diagonal(inner))
        return _ratio(inner, np.outer(norms, norms))

    @property
    def _total(self) -> _Floats:
        total: _Floats = np.sum(list(self.products.values()), axis=0)
        return total

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Return headers and rows: changes of a parent in per cent, and the nearest other."""
        columns = {"parent": [self.names[parent] for parent in self.parents]}
        for name in _COLUMNS if self.base is not None else ():
            if name in self.products:
                shares = 100 * self.change(name)
                columns[name] = [_decimal(item, 2 if item < 10 else 1) for item in shares]
        if len(self.parents) > 1:
            cosines, digits = self.cosines(), 4 if self.base is None else 2
            known = np.nan_to_num(cosines, nan=-1.0)
            np.fill_diagonal(known, -np.inf)
            nearest = known.argmax(axis=1)
            columns["nearest"] = [columns["parent"][other] for other in nearest]
            columns["cosine"] = [_decimal(cosines[pair], digits) for pair in enumerate(nearest)]
        return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what is not defined is None."""
        parents: list[dict[str, Any]] = [{"parent": item} for item in self.parents]
        for i, item in enumerate(parents if self.base is not None else ()):
            item["change"] = _plain(self.change()[i])
            item["components"] = {name: _plain(self.change(name)[i]) for name in self.products}
        cosines = self.cosines()
        pairs = [
            {"parents": [self.parents[i], self.parents[j]], "cosine": _plain(cosines[i, j])}
            for i, j in itertools.combinations(range(len(parents)), 2)
        ]
        return {
            "base": self.base, "parents": parents, "pairs": pairs, "notes": list(self.notes),
        }  # fmt: skip


def compare_parents(
    base: Checkpoint | None, parents: Sequence[Checkpoint], names: Mapping[str, str]
) -> ParentComparison:
    """Read the weights of base and parents once, and compare them.

    The parents fit the base, or without one the first of them (`naming.fitting`). `names`:
    reference of each model -> its short name. A CheckpointError says that a file is damaged or was
    changed since it was opened, or that a model has weights that are not finite.
    """
    models = [base or parents[0], *parents]
    products, left_out = _products(models)
    squares = np.diagonal(np.sum(list(products.values()), axis=0))
    for model, square in zip(models, squares, strict=True):
        if not np.isfinite(square):
            raise CheckpointError(
                f"{model.reference!r} has weights that are not finite, so nothing can be said of "
                "it; give another version of the model."
            )
    notes = list(_texts(list(dict.fromkeys(models)), names))
    if left_out:
        examples = f"{', '.join(left_out[:2])}{', ...' if len(left_out) > 2 else ''}"
        notes.append(
            f"Not compared, since a model lacks them or has another shape: {len(left_out)} of the "
            f"tensors ({examples})."
        )
    if base is None:
        notes.append("What each parent changed is not known without a base; give the base.")
    return ParentComparison(
        base=base.reference if base else None,
        parents=[item.reference for item in parents],
        names=names,
        products=products,
        notes=notes,
    )


def _products(models: Sequence[Checkpoint]) -> tuple[dict[str, _Floats], list[str]]:
    """Return component -> Gram matrix, and the tensors of the first model that others lack."""
    host, maps = models[0], [TensorNameMap(models[0], model) for model in models]
    known = {str(number): model for number, model in enumerate(models)}
    reader = TensorReader(known)
    room, left_out = np.empty((len(models), _BLOCK), np.float32), []
    products: dict[str, _Floats] = {}
    for component, names in _tensors(host, maps):
        pairs = [(str(number), name) for number, name in enumerate(names) if name is not None]
        shapes = {known[number].tensors[name].shape for number, name in pairs}
        if len(pairs) < len(models) or len(shapes) > 1:
            left_out.append(names[0] or "")
            continue
        gram = products.setdefault(component, np.zeros((len(models), len(models))))
        sources = [SourceTensor(number, name) for number, name in pairs]
        flat = [reader.read(source).reshape(-1) for source in sources]
        for start in range(0, len(flat[0]), _BLOCK):
            block = room[:, : min(_BLOCK, len(flat[0]) - start)]
            for row, weights in zip(block, flat, strict=True):
                write_copy(weights[start : start + _BLOCK], row)
            block[1:] -= block[0]
            gram += block @ block.T
        for source in sources:
            reader.release(source)
    return products, left_out


def _tensors(
    host: Checkpoint, maps: Sequence[TensorNameMap]
) -> Iterator[tuple[str, list[str | None]]]:
    """Yield the component of each trained tensor of the host, and its name in each model."""
    others = {name for names in host.modalities.values() for name in names}

    def is_trained(name: str) -> bool:
        info = host.tensors[name]
        return info.floating and not is_buffer(name, info) and name not in others

    for prefix, stack in host.language.items():
        for layer, block in enumerate(stack.blocks):
            for suffix in block:
                if is_trained(stack.name(layer, suffix)):
                    component = component_of(suffix)[0] or "other"
                    yield component, [item.inside(prefix, layer, suffix) for item in maps]
    for name, place in host.places.items():
        tied = name == host.head and host.tied
        if place in ("embeddings", "head") and is_trained(name) and not tied:
            yield place, [item.non_layer.get(name) for item in maps]
    for part, names in host.modalities.items():
        for name in names:
            yield part, [item.modalities.get(name) for item in maps]


def _texts(models: Sequence[Checkpoint], names: Mapping[str, str]) -> Iterator[str]:
    """Yield how tokens and chat templates differ, in sentences."""
    have = [item for item in models if (item.folder / "tokenizer.json").is_file()]
    tokens = {item.reference: Tokens.of(item).ids for item in have}
    for other in have[1:]:
        first = tokens[have[0].reference]
        if new := sum(first.get(it) != number for it, number in tokens[other.reference].items()):
            host = names[have[0].reference]
            yield f"{new:,} tokens of {names[other.reference]} are not those of {host}."
    template = models[0].chat_template
    unlike = [names[item.reference] for item in models if item.chat_template != template]
    if unlike:
        yield f"Not the chat template of {names[models[0].reference]}: {', '.join(unlike)}."


def _decimal(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> _Floats:
    """Return a quotient; nan where it would be by 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: _Floats = np.where(np.asarray(below) == 0, np.nan, np.divide(above, below))
        return quotient
