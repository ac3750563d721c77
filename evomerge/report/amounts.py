"""Amounts as text for people."""

from __future__ import annotations


def size_text(count: float) -> str:
    """Return a number of bytes as text, such as `1.23 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    """Return a time as text: `48 s`, `12 min 5 s`, `3 h 20 min`, `2 d 4 h`."""
    whole = round(seconds)
    for name, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part} {below}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def fine_duration(seconds: float) -> str:
    """Return a time as text, with two digits below ten seconds: `0.17 s`, `3.5 s`, `48 s`."""
    return f"{seconds:.2g} s" if seconds < 9.5 else duration(seconds)
