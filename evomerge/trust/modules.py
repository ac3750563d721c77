"""The Python files of a module that is not installed, and of what it imports.

To find them runs nothing. Modules that are imported by a name that is made at run time, or in
another way than by files on `sys.path`, are not found.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import all_suffixes
from pathlib import Path
from types import ModuleType

from evomerge.models.references import is_file
from evomerge.trust.files import check_allowed
from evomerge.trust.installed import is_installed

_imported: set[str] = set()
"""Names of the modules that `import_allowed` has imported."""


def import_allowed(name: str) -> ModuleType:
    """Import a module.

    Raises:
        NotAllowedError: one of its files was not allowed, or has changed.
        Exception: whatever its code raises.
    """
    if name not in sys.modules:
        for file in files_of_module(name):
            check_allowed(file)
        importlib.invalidate_caches()
        _imported.add(name)
    return importlib.import_module(name)


def is_of_host(name: str) -> bool:
    """Return whether a module was imported by the program that uses evomerge, not by evomerge."""
    return name in sys.modules and name not in _imported


def files_of_module(name: str) -> list[Path]:
    """Return the files of a module and of all modules that it imports, without installed ones.

    Of a package these are all files with code in its folder. A module that cannot be found has no
    files.

    Args:
        name: the module's name, as in an `import`.
    """
    return with_imports(_found(name.split("."), _python_path()))


def with_imports(files: Sequence[Path]) -> list[Path]:
    """Return Python files and the files of all that they import, without installed ones.

    An imported module is looked for where Python does, and beside the file that imports it.
    """
    found: dict[Path, None] = {}
    waiting = list(files)
    while waiting:
        file = waiting.pop(0).resolve()
        if file in found or is_installed(file) or not is_file(file):
            continue
        found[file] = None
        for name in _imports(file):
            inside = name.lstrip(".")
            above, parts = len(name) - len(inside), inside.split(".")
            if above:
                waiting += _found(parts, file.parents[above - 1 : above])
                continue
            waiting += _found(parts, _python_path())
            if parts[0] not in sys.stdlib_module_names:
                waiting += _found(parts, [file.parent])
    return list(found)


def _python_path() -> list[Path]:
    return [Path(place) for place in sys.path]


def _found(parts: Sequence[str], folders: Sequence[Path]) -> list[Path]:
    """Return the files of a module, in the first of some folders that has it."""
    first, *others = parts
    if not first or first in sys.builtin_module_names:
        return []
    for folder in folders:
        inside = folder / first
        if any(is_file(inside / f"__init__{end}") for end in all_suffixes()):
            return [] if is_installed(inside) else _package(inside)
        if files := [f for end in all_suffixes() if is_file(f := folder / f"{first}{end}")]:
            return files[:1]
        if others and inside.is_dir() and (files := _found(others, [inside])):
            return files  # of a namespace package, which has no file of its own
    return []


def _package(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return sorted(path for path in files if path.name.endswith(tuple(all_suffixes())))


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
            start = "." * node.level + (f"{node.module}." if node.module else "")
            yield from (start + item.name for item in node.names)
