"""The files of a Python module that is not installed, and of what it imports. Nothing is run."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder, all_suffixes
from pathlib import Path

from evomerge.trust.installed import is_installed

_CACHE = "__pycache__"


def files_of_module(name: str) -> list[Path]:
    """Return the files of a module and of all modules that it imports, without installed ones.

    Of a package these are all files with code in its folder. A module that cannot be found has no
    files. Modules that are imported by a name that is made at run time are not found.

    Args:
        name: the module's name, as in an `import`.
    """
    return with_imports(_module(name))


def with_imports(files: list[Path]) -> list[Path]:
    """Return Python files and the files of all that they import, without installed ones.

    An imported module is looked for where Python does, and beside the file that imports it.
    """
    found: dict[Path, None] = {}
    waiting = [file.resolve() for file in files]
    while waiting:
        file = waiting.pop(0)
        if file in found or is_installed(file) or not file.is_file():
            continue
        found[file] = None
        for name in dict.fromkeys(_imports(file)):
            if name.startswith("."):
                waiting += _relative(name, file)
                continue
            waiting += _module(name)
            waiting += _beside(name, file.parent)
    return list(found)


def _module(name: str) -> list[Path]:
    """Return the files of a module."""
    first, *others = name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as __main__
        return []
    return _files(spec, others)


def _beside(name: str, folder: Path) -> list[Path]:
    """Return the files of a module that stands in a folder, as if Python looked there."""
    first, *others = name.split(".")
    if first in sys.stdlib_module_names:
        return []
    return _files(PathFinder.find_spec(first, [str(folder)]), others)


def _relative(name: str, file: Path) -> list[Path]:
    """Return the files of a module that a file imports from its own package, such as `..other`."""
    inside = name.lstrip(".")
    folders = file.parents[len(name) - len(inside) - 1 :]
    first, *others = inside.split(".")
    return _files(PathFinder.find_spec(first, [str(folders[0])]), others) if folders else []


def _files(spec: ModuleSpec | None, others: list[str]) -> list[Path]:
    """Return the files of a module, or of a submodule of it."""
    while spec is not None:
        places = spec.submodule_search_locations
        if spec.origin is not None and spec.has_location:
            file = Path(spec.origin)
            if is_installed(file):
                return []
            return [file] if places is None else _package(file.parent)
        if not others or places is None:
            return []
        name, *others = others  # of a namespace package, which has no file of its own
        spec = PathFinder.find_spec(name, list(places))
    return []


def _package(folder: Path) -> list[Path]:
    suffixes = tuple(all_suffixes())
    inside = (path for path in folder.rglob("*") if _CACHE not in path.parts)
    return sorted(path for path in inside if path.name.endswith(suffixes))


def _imports(file: Path) -> Iterator[str]:
    """Yield the modules that a Python file imports by name; none if it is no valid Python.

    Those of its own package have dots in front, as in the file.
    """
    if file.suffix != ".py":
        return
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            if node.module:
                yield dots + node.module
            start = f"{dots}{node.module}." if node.module else dots
            yield from (start + item.name for item in node.names)
