"""The Python files of a module that is not installed, and of what it imports; importing just these.

To find them runs nothing. Modules that are imported by a name that is made at run time, or in
another way than by files on `sys.path`, are not found. Installed, by the choice of the user, are
Python itself, its packages (in `site-packages`), this package and lm-eval.
"""

from __future__ import annotations

import ast
import importlib
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.machinery import PathFinder, all_suffixes
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from evomerge.models.references import is_file
from evomerge.trust.consent import check_allowed

_imported: set[str] = set()
"""Names of the modules that `import_allowed` has imported."""


def import_allowed(name: str) -> ModuleType:
    """Import a module.

    Raises:
        ConfigError: one of its files was not allowed, or has changed.
        Exception: whatever its code raises.
    """
    if name not in sys.modules:
        check_allowed(files_of_module(name), f"objectives: the code of {name!r}")
        _imported.add(name)
    return importlib.import_module(name)


def is_of_host(name: str) -> bool:
    """Return whether a module was imported by the program that uses evomerge, not by evomerge."""
    return name in sys.modules and name not in _imported


def files_of_module(name: str) -> list[Path]:
    """Return the files of a module and of all that it imports; none if it cannot be found."""
    importlib.invalidate_caches()  # files may have been written just before
    return with_imports(_found(name, sys.path))


def with_imports(files: Iterable[Path]) -> list[Path]:
    """Return files and those of all that they import, without installed ones.

    An imported module is looked for where Python does, and beside the file that imports it.
    """
    found: dict[Path, None] = {}
    waiting = list(files)
    while waiting:
        file = waiting.pop(0).resolve()
        if file not in found and is_file(file) and not is_installed(file):
            found[file] = None
            for name, level in _imports(file):
                places = [str(folder) for folder in file.parents[max(0, level - 1) :][:1]]
                waiting += _found(name, places) + ([] if level else _found(name, sys.path))
    return list(found)


def _found(name: str, folders: Sequence[str]) -> list[Path]:
    """Return the files that Python may run to import a module or a part of it (`package.module`).

    A package counts as a whole. Of a folder without an `__init__.py`, only the modules do that are
    named, since it may hold anything.
    """
    first, _, rest = name.partition(".")
    spec = PathFinder.find_spec(first, folders) if first else None
    if spec is None:
        return []
    places = spec.submodule_search_locations
    if spec.origin is None:
        return _found(rest, list(places or ()))
    if places is None:
        return [Path(spec.origin)]
    inside = [
        file for place in map(Path, places) if not is_installed(place) for file in place.rglob("*")
    ]
    return sorted(
        file
        for file in inside
        if file.name.endswith(tuple(all_suffixes())) and "__pycache__" not in file.parts
    )


def _imports(file: Path) -> list[tuple[str, int]]:
    """Return what a Python file imports, each with the number of dots before it.

    There is nothing if it is not valid. Of `from a import b`, the name is `a.b`.
    """
    names: dict[tuple[str, int], None] = {}
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = f"{node.module}." if node.module else ""
            names |= {(module + item.name, node.level): None for item in node.names}
        elif isinstance(node, ast.Import):
            names |= {(item.name, 0): None for item in node.names}
    return list(names)


def is_installed(file: Path) -> bool:
    """Return whether a file stands in an installed package, or is one of Python's own."""
    place = file.resolve()
    return not _roots().isdisjoint([place, *place.parents])


@cache
def _roots() -> frozenset[Path]:
    """Return the folders in which everything is installed."""
    own = map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))
    places = {Path(place).resolve() for place in sys.path}
    places.discard(Path.cwd())  # a stranger may have named it so
    packages = {place for place in places if place.name in ("site-packages", "dist-packages")}
    specs = (find_spec("evomerge"), find_spec("lm_eval"))  # often installed as editable
    found = [place for spec in specs if spec for place in spec.submodule_search_locations or ()]
    return frozenset(packages.union(Path(folder).resolve() for folder in (*own, *found)))
