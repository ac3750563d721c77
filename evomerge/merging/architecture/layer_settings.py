"""The settings in a config that say something about single layers, and the forms they come in.

All become a column: a list with one value for each layer. A column can be put together anew from
the layers of a path, and is then written in the form that the config had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Column = list[Any]

SPARSE_STEP = "decoder_sparse_step"
"""Qwen's key with the period of the layers that have experts. `mlp_only_layers` lists exceptions.
Its column has all layers without experts, and so can be written only where the period is 1."""


class InexpressibleError(Exception):
    """A form cannot express a column at `layer`; the message says where chosen layers can stand."""

    def __init__(self, layer: int, where: str) -> None:
        super().__init__(where)
        self.layer = layer


class KeyForm(NamedTuple):
    """How a value of type `kind` says something about each layer.

    `read` takes it and the number of layers, and returns the column; `write` takes this and returns
    the value, or raises `InexpressibleError`.
    """

    kind: type | tuple[type, ...]
    read: Callable[[Any, int], Column]
    write: Callable[[Column], Any]


def columns(section: Mapping[str, Any], count: int) -> dict[str, Column]:
    """Return the columns of a config with `count` layers, by key."""
    found: dict[str, Column] = {}
    for key, value in section.items():
        form = _form_of(key)
        if form is not None and isinstance(value, form.kind):
            try:
                column = form.read(value, count)
            except (TypeError, ValueError):  # its entries are of another form
                continue
            if len(column) == count:
                found[key] = column
    step = section.get(SPARSE_STEP)
    if "mlp_only_layers" in found and isinstance(step, int) and step > 1:
        dense = found["mlp_only_layers"]
        found["mlp_only_layers"] = [dense[i] or (i + 1) % step != 0 for i in range(count)]
    if "mlp_layer_types" in found:  # transformers then ignores the number that it replaces
        found = {key: column for key, column in found.items() if _FORMS.get(key) is not _FIRST}
    return found


def write_column(key: str, column: Column) -> Any:
    """Return the value of a key that has this column; raises `InexpressibleError`."""
    form = _form_of(key)
    return form.write(column) if form else column


def _form_of(key: str) -> KeyForm | None:
    if key in _FORMS:
        return _FORMS[key]
    return _LIST if "layer" in key and "index" not in key else None


def _write_ordinals(column: Column) -> list[int]:
    positions = [i for i, ordinal in enumerate(column) if ordinal is not None]
    for ordinal, i in enumerate(positions):
        if column[i] != ordinal:
            raise InexpressibleError(i, "each once, in the order of their model")
    return positions


def _write_first(column: Column) -> int:
    number = sum(column)
    if not all(column[:number]):
        raise InexpressibleError(column.index(True, column.index(False)), "at the start")
    return number


def _write_last(column: Column) -> int:
    if sum(column) and not all(column[-sum(column) :]):
        raise InexpressibleError(column.index(True), "at the end")
    return sum(column)


_SEQUENCE = (list, tuple)

# One entry for each layer.
_LIST = KeyForm(_SEQUENCE, lambda value, _: list(value), list)
# The positions of some layers.
_POSITIONS = KeyForm(
    _SEQUENCE,
    lambda value, count: [i in value for i in range(count)],
    lambda column: [i for i, chosen in enumerate(column) if chosen],
)
# The positions of some layers, which have adapters in this order.
_ORDINALS = KeyForm(
    _SEQUENCE,
    lambda value, count: [value.index(i) if i in value else None for i in range(count)],
    _write_ordinals,
)
# How many layers at the start; the last of these (-1: all layers); how many at the end.
_FIRST = KeyForm(int, lambda value, count: [i < value for i in range(count)], _write_first)
_UNTIL = KeyForm(
    int,
    lambda value, count: [value == -1 or i <= value for i in range(count)],
    lambda column: _write_first(column) - 1,
)
_LAST = KeyForm(int, lambda value, count: [i >= count - value for i in range(count)], _write_last)
# Position -> entry, for some layers.
_MAPPING = KeyForm(
    Mapping,
    lambda value, count: [{str(k): v for k, v in value.items()}.get(str(i)) for i in range(count)],
    lambda column: {str(i): item for i, item in enumerate(column) if item is not None},
)
_FORMS: dict[str, KeyForm | None] = {
    key: form
    for keys, form in (
        ("activation_sparsity_pattern intermediate_size moe_topk num_experts", _LIST),
        ("attn_layer_indices cross_attention_layers full_attn_idxs", _POSITIONS),
        ("mlp_only_layers moe_layers", _POSITIONS),
        ("first_k_dense_replace moe_layer_start_index num_dense_layers", _FIRST),
        ("moe_layer_end_index", _UNTIL),
        ("num_kv_shared_layers", _LAST),
        ("hybrid_layer_ids", _ORDINALS),
        ("per_layer_config", _MAPPING),
        ("mtp_layers_block_type", None),
    )
    for key in keys.split()
}
"""The form by key, where it is no list whose name has the word `layer`."""
