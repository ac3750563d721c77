"""Where mergekit's documentation calls something otherwise than evomerge does."""

from __future__ import annotations

_KNOBS = {
    "nuslerp": {"nuslerp_flatten": "flatten", "nuslerp_row_wise": "row_wise"},
}
_METHODS = {"ramplus": "ramplus_tl"}


def knob_name(method: str, name: str) -> str:
    """Return evomerge's name of a parameter that a mergekit file gives."""
    return _KNOBS.get(method, {}).get(name, name)


def mergekit_knob(method: str, name: str) -> str:
    """Return mergekit's name of one of evomerge's knobs."""
    return {ours: theirs for theirs, ours in _KNOBS.get(method, {}).items()}.get(name, name)


def mergekit_method(method: str) -> str:
    """Return mergekit's name of one of evomerge's methods."""
    return _METHODS.get(method, method)
