"""Paths as tests write them: the text of `evomerge.space.paths.path.format_path`, read back."""

import re
from collections.abc import Mapping

from evomerge.space.paths.path import Hop, Path

WORD = re.compile(r"([A-Z]+)(\d+)(?:-(\d+))?(?:x(\S+))?")


def parse_path(text: str, legend: Mapping[str, str]) -> Path:
    """Return the hops of `A0-11 B8-15x0.9`; a scale is that of the first block of its word."""
    hops: list[Hop] = []
    for word in text.split():
        match = WORD.fullmatch(word)
        assert match is not None, f"{word!r} is no word of a path"
        letter, first, last, scale = match.groups()
        hops.append(Hop(legend[letter], int(first), float(scale or 1)))
        hops += [Hop(legend[letter], at) for at in range(int(first) + 1, int(last or first) + 1)]
    return tuple(hops)
