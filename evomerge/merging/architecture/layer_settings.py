"""The settings in a config that say something about single layers, and the forms they come in.

Most are lists with one entry for each layer. Others are positions, a number of layers at one end,
or a pattern. Here all become a column: a list with one value for each layer. A column can be put
together anew from the layers of a path, and is then written in the form that the config had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Column = list[Any]

SPARSE_STEP = "decoder_sparse_step"
"""Qwen's key with the period of the layers that have experts. `mlp_only_layers` lists exceptions.
Its column has all layers without experts, and so can be written only where the period is 1."""


class InexpressibleError(Exception):
    """A form cannot express a column; the message says where chosen layers can stand.

    Attributes:
        layer: index of the first layer that does not fit.
    """

    def __init__(self, layer: int, where: str) -> None:
        super().__init__(where)
        self.layer = layer


@dataclass(frozen=True)
class Form:
    """How a value in a config says something about each layer.

    Attributes:
        read: takes the value and the number of layers; returns the column, or None if the value
            does not have this form.
        write: takes a column and returns the value; raises `InexpressibleError`.
    """

    read: Callable[[Any, int], Column | None]
    write: Callable[[Column], Any]


def columns(section: Mapping[str, Any], count: int) -> dict[str, Column]:
    """Return the columns of a config by key.

    Args:
        section: the language model's part of the config.
        count: its number of layers.
    """
    found: dict[str, Column] = {}
    for key, value in section.items():
        form = _form_of(key)
        column = form.read(value, count) if form else None
        if column is not None and len(column) == count:
            found[key] = column
    step = section.get(SPARSE_STEP)
    if "mlp_only_layers" in found and isinstance(step, int) and step > 1:
        dense = found["mlp_only_layers"]
        found["mlp_only_layers"] = [dense[i] or (i + 1) % step != 0 for i in range(count)]
    if "mlp_layer_types" in found:  # transformers then ignores the number that it replaces
        found = {key: column for key, column in found.items() if _FORMS.get(key) is not _FIRST}
    return found


def write_column(key: str, column: Column) -> Any:
    """Return the value of a key that has this column.

    Raises:
        InexpressibleError: the key's form cannot express it.
    """
    form = _form_of(key)
    return form.write(column) if form else column


def _form_of(key: str) -> Form | None:
    if key in _FORMS:
        return _FORMS[key]
    return _LIST if "layer" in key and "index" not in key else None


def _read_list(value: Any, count: int) -> Column | None:
    return list(value) if isinstance(value, (list, tuple)) and len(value) == count else None


def _read_positions(value: Any, count: int) -> Column | None:
    return [i in value for i in range(count)] if isinstance(value, (list, tuple)) else None


def _write_positions(column: Column) -> list[int]:
    return [i for i, chosen in enumerate(column) if chosen]


def _read_ordinals(value: Any, count: int) -> Column | None:
    if not isinstance(value, (list, tuple)):
        return None
    return [value.index(i) if i in value else None for i in range(count)]


def _write_ordinals(column: Column) -> list[int]:
    positions = [i for i, ordinal in enumerate(column) if ordinal is not None]
    for ordinal, i in enumerate(positions):
        if column[i] != ordinal:
            raise InexpressibleError(i, "each once, in the order of their model")
    return positions


def _read_first(value: Any, count: int) -> Column | None:
    return [i < value for i in range(count)] if isinstance(value, int) else None


def _write_first(column: Column) -> int:
    number = sum(column)
    if not all(column[:number]):
        late = column.index(True, column.index(False))
        raise InexpressibleError(late, "at the start")
    return number


def _read_until(value: Any, count: int) -> Column | None:
    if not isinstance(value, int):
        return None
    return [value == -1 or i <= value for i in range(count)]


def _read_last(value: Any, count: int) -> Column | None:
    return [i >= count - value for i in range(count)] if isinstance(value, int) else None


def _write_last(column: Column) -> int:
    number = sum(column)
    if not all(column[len(column) - number :]):
        raise InexpressibleError(column.index(True), "at the end")
    return number


def _read_mapping(value: Any, count: int) -> Column | None:
    if not isinstance(value, Mapping):
        return None
    named = {str(key): item for key, item in value.items()}
    return [named.get(str(i)) for i in range(count)]


def _write_mapping(column: Column) -> dict[str, Any]:
    return {str(i): item for i, item in enumerate(column) if item is not None}


def _read_letters(value: Any, count: int) -> Column | None:
    return list(value) if isinstance(value, str) and len(value) == count else None


def _read_cycle(value: Any, count: int) -> Column | None:
    if not isinstance(value, (list, tuple)) or not value:
        return None
    return [value[i % len(value)] for i in range(count)]


def _read_repeats(value: Any, count: int) -> Column | None:
    try:
        return [entry for entries, times in value for _ in range(times) for entry in entries]
    except (TypeError, ValueError):
        return None


_LIST = Form(_read_list, list)
"""One entry for each layer."""

_POSITIONS = Form(_read_positions, _write_positions)
"""The positions of some layers."""

_FIRST = Form(_read_first, _write_first)
"""How many layers at the start."""

_FORMS: dict[str, Form | None] = {
    "activation_sparsity_pattern": _LIST,
    "intermediate_size": _LIST,
    "moe_topk": _LIST,
    "num_experts": _LIST,
    "attn_layer_indices": _POSITIONS,
    "cross_attention_layers": _POSITIONS,
    "full_attn_idxs": _POSITIONS,
    "mlp_only_layers": _POSITIONS,
    "moe_layers": _POSITIONS,
    "first_k_dense_replace": _FIRST,
    "moe_layer_start_index": _FIRST,
    "num_dense_layers": _FIRST,
    "moe_layer_end_index": Form(_read_until, lambda column: _write_first(column) - 1),
    "num_kv_shared_layers": Form(_read_last, _write_last),
    "hybrid_layer_ids": Form(_read_ordinals, _write_ordinals),  # these have adapters in this order
    "per_layer_config": Form(_read_mapping, _write_mapping),
    "hybrid_override_pattern": Form(_read_letters, "".join),
    "block_types": Form(_read_cycle, list),
    "attention_types": Form(_read_repeats, lambda column: [[column, 1]]),
    "mtp_layers_block_type": None,
}
"""The form by key, where it is no list whose name has the word `layer`."""
