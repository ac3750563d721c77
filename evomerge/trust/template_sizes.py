"""What operations, filters and methods of Jinja templates make, in bytes, before they do.

Sizes are bounds from above, exact where that is cheap.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

MOST_BYTES = 256 << 20
"""Bytes of all values that the rendering of a template makes."""

_ELEMENT = 80  # bytes of a short text or number in a list
CONTAINERS = (list, tuple, dict, set, frozenset)
_SPEC = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\*|\d*)(?:\.(\*|\d*))?")
_FIELD = re.compile(r"\{[^{}:]*:((?:[^{}]|\{[^{}]*\})*)")
_SEPARATORS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def size_as_text(value: Any) -> float:
    """Return at least the length of a value as text; inf if that is beyond all limits."""
    if isinstance(value, str):
        return len(value)
    size, values = 0.0, [value]
    while values and size <= MOST_BYTES:
        value = values.pop()
        size += 100
        if isinstance(value, (str, bytes)):
            size += 6 * len(value)
        elif isinstance(value, int):
            size += value.bit_length() / 3
        elif isinstance(value, dict):
            values += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            values += value
    return float("inf") if values else size


def bytes_of(value: Any) -> int:
    """Return the bytes of a value; of a list or mapping also of what may be made of its parts."""
    size = sys.getsizeof(value)
    return size + _ELEMENT * len(value) if isinstance(value, CONTAINERS) else size


def _size_of_sum(left: Any, right: Any) -> float:
    if isinstance(left, (str, bytes, list, tuple)):
        return bytes_of(left) + bytes_of(right)
    return 0


def _size_of_product(left: Any, right: Any) -> float:
    if isinstance(left, int) and isinstance(right, int):
        return _size_of_number(left.bit_length() + right.bit_length())
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, (str, bytes, list, tuple)) and isinstance(count, int):
            return (bytes_of(sequence) - bytes_of(sequence[:0])) * max(0, count)
    return 0


def _size_of_power(left: Any, right: Any) -> float:
    if isinstance(left, int) and isinstance(right, int):
        return _size_of_number(left.bit_length() * max(0, right))
    return 0


def _size_of_number(bits: int) -> float:
    """Return the bytes of a number; inf if computing with it takes long."""
    return bits / 8 if bits < 1e6 else float("inf")


def _size_of_format(text: Any, values: Any) -> float:
    """Return at least the size of `text % values`."""
    if not isinstance(text, (str, bytes)):
        return 0
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    largest = max(size_as_text(values), 400)  # a float may have 309 digits before the point
    stars = _largest(values if isinstance(values, (tuple, list)) else [values])
    size = float(len(text))
    for spec in _SPEC.finditer(text):
        widths = [stars if width == "*" else int(width or 0) for width in spec.groups("0")]
        size += largest + sum(widths)
    return 4 * size


def _size_of_format_method(text: str, values: Sequence[Any]) -> float:
    """Return at least the size of `text.format(*values)`."""
    specs = _FIELD.findall(text)
    widths = [int(number[:20]) for spec in specs for number in re.findall(r"\d+", spec)]
    if any("{" in spec for spec in specs):  # a width may be one of the values
        digits = [value for value in values if isinstance(value, str) and value.isdecimal()]
        widths += [_largest(values), *(int(value[:20]) for value in digits)]
    largest = max(size_as_text(list(values)), 400) + 2 * max(widths, default=0)
    return 4 * (len(text) + text.count("{") * largest)


OPERATIONS: dict[str, Callable[[Any, Any], float]] = {
    "+": _size_of_sum,
    "*": _size_of_product,
    "**": _size_of_power,
    "%": _size_of_format,
}


_PADDING = {"center", "ljust", "rjust", "zfill", "to_bytes", "batch", "slice"}
_SPLITTING = {"split", "rsplit", "splitlines"}
_SORTING = {"sort", "unique", "groupby", "dictsort"}
_SPREADING = {"list", "reverse", "map", "select", "reject", "selectattr", "rejectattr"}
_SPREADING |= {"batch", "slice"}
_REPEATING = {"wordwrap", "urlize", "xmlattr", "regex_replace"}
_PLAIN = {"length", "count", "first", "last", "items", "get", "keys", "values", "append", "pop"}
"""Filters and methods that are called often and make no text of a list or mapping."""


def size_after(name: str, value: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    """Return at least the bytes of what a filter or method makes of a value, if that is large.

    `args` and `kwargs` are its other arguments.
    """
    others = [*args, *kwargs.values()]
    number = _largest(others)
    texts = sum(len(other) for other in others if isinstance(other, (str, bytes)))
    is_text = isinstance(value, (str, bytes))
    if name == "replace" and is_text and len(others) > 1:
        return float(sys.getsizeof(value) + value.count(others[0]) * 4 * _length(others[1]))
    if name == "join":
        is_method = is_text and bool(others) and not isinstance(others[0], str)
        values, separator = (others[0], len(value)) if is_method else (value, texts)
        return size_as_text(values) + 4 * len(values) * separator
    if name in ("format", "format_map"):
        by_method = _size_of_format_method(str(value), others)
        return max(_size_of_format(value, tuple(others)), by_method)
    if name == "translate" and others:
        return len(value) * max([1, *map(size_as_text, others[0].values())])
    if name == "expandtabs":
        return len(value) * max(8, number)
    if name == "indent":
        lines = value.count("\n") + 1 if isinstance(value, str) else 1
        return size_as_text(value) + 4 * lines * (number + texts + 4)
    if name in _SPLITTING and is_text:
        return _size_of_split(name, value, others)
    if name in ("strftime", "strftime_now"):
        return 256 * texts
    if name in ("tojson", "pprint"):
        size = size_as_text(value)
        elements = size / 100 + 1
        return 6 * size + elements * min(elements, 1000) * (number + texts + 1)
    if name == "round":
        return 1000 * number
    if name in _REPEATING:
        size = size_as_text(value) * (6 + texts)
        is_ahead = name == "regex_replace" and any("(?" in str(other) for other in others)
        return size * (1 + len(value)) if is_ahead else size  # a group is all that follows
    if name in _SORTING:
        count = len(value) if hasattr(value, "__len__") else 0
        return max(600 * count, size_as_text(value) if isinstance(value, CONTAINERS) else 0)
    if name in _SPREADING and is_text:
        return _ELEMENT * len(value) + 4 * number
    if name in _PADDING:
        return 4 * number * (1 + texts)
    return size_as_text(value) if isinstance(value, CONTAINERS) and name not in _PLAIN else 0


def _size_of_split(name: str, value: Any, others: Sequence[Any]) -> float:
    separator = next((other for other in others if isinstance(other, type(value)) and other), None)
    count = len(value) / 2 if separator is None else value.count(separator)
    if name == "splitlines" and isinstance(value, str):
        count = sum(map(value.count, _SEPARATORS))
    return len(value) + _ELEMENT * count


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes)) else len(str(value))


def _largest(values: Iterable[Any]) -> int:
    return max((abs(value) for value in values if isinstance(value, int)), default=0)
