"""What a shell offers when Tab is pressed: names, search files, run folders, recipes, models.

Each function gets what was typed and returns what begins with it. Files are found by their content,
a few levels below the folder that was typed; if none is found, the shell offers file names. Nothing
here imports torch, since a person waits.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

_LEVELS = 3
"""How deep below the typed folder things are found: `evomerge status <Tab>` offers `runs/mine`."""

_MOST_ENTRIES = 5000
"""Files and folders that are looked at; a person waits."""

_HEAD = 20_000  # bytes of a file that are read to recognise it
_SEARCH = re.compile(rb"^(objectives|stages):", re.MULTILINE)
_RECIPE = re.compile(rb"^(layers|merge_method|slices|models):", re.MULTILINE)


def search_files(incomplete: str) -> list[str]:
    """Return search files that a search can be started with, so none of runs."""
    return [path for path in configs(incomplete) if not _is_run(os.path.dirname(path))]  # noqa: PTH120


def configs(incomplete: str) -> list[str]:
    """Return search files, those of runs too."""
    return _found(incomplete, lambda path: _is_yaml(path, _SEARCH))


def recipes(incomplete: str) -> list[str]:
    """Return recipes and mergekit configs."""
    return _found(incomplete, lambda path: _is_yaml(path, _RECIPE))


def run_folders(incomplete: str) -> list[str]:
    """Return run folders, and folders of searches in stages."""
    return _found(incomplete, _is_run)


def model_folders(incomplete: str) -> list[str]:
    """Return folders of models."""
    return _found(incomplete, lambda path: Path(path, "config.json").is_file())


def presets(incomplete: str) -> list[str]:
    """Return the presets of `evomerge init`."""
    from evomerge.config.presets import preset_names

    return beginning(preset_names(), incomplete)


def trackers(incomplete: str) -> list[str]:
    """Return the trackers."""
    from evomerge.report.trackers.protocol import TRACKERS

    return beginning(TRACKERS.names(), incomplete)


def splits(incomplete: str) -> list[str]:
    """Return the splits."""
    from evomerge.scores import SPLITS

    return beginning(SPLITS, incomplete)


def beginning(names: Iterable[str], incomplete: str) -> list[str]:
    """Return the names that begin with what was typed."""
    return [name for name in names if name.startswith(incomplete)]


def _found(incomplete: str, is_wanted: Callable[[str], bool]) -> list[str]:
    """Return the paths that begin with what was typed and are wanted, in alphabetical order."""
    return sorted(filter(is_wanted, islice(_below(incomplete), _MOST_ENTRIES)))


def _below(incomplete: str) -> Iterator[str]:
    """Yield the paths that begin with what was typed, the nearest first; no hidden ones below."""
    folder, begin = os.path.split(incomplete)
    left = deque([(folder, begin, _LEVELS)])
    while left:
        folder, begin, levels = left.popleft()
        try:
            entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if not entry.name.startswith(begin) or (not begin and entry.name.startswith(".")):
                continue
            path = os.path.join(folder, entry.name)  # noqa: PTH118 - keeps a typed `./`
            yield path
            if levels > 1 and entry.is_dir(follow_symlinks=False):
                left.append((path, "", levels - 1))


def _is_run(path: str) -> bool:
    from evomerge.run.folder import JOURNAL, STAGES

    return any(Path(path, name).is_file() for name in (JOURNAL, STAGES))


def _is_yaml(path: str, sign: re.Pattern[bytes]) -> bool:
    if not path.endswith((".yaml", ".yml")):
        return False
    try:
        with Path(path).open("rb") as file:
            return sign.search(file.read(_HEAD)) is not None
    except OSError:
        return False
