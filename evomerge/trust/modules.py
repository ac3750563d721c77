"""The Python files of a module that is not installed, and of what it imports.

To find them runs nothing. Modules that are imported by a name that is made at run time, or in
another way than by files on `sys.path`, are not found.

Installed, by the choice of the user, are Python itself, its packages (in `site-packages`), this
package, and packages that pip has installed as editable ones. Files in the working folder and in
other folders of PYTHONPATH are not.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.machinery import PathFinder, all_suffixes
from importlib.metadata import Distribution, distributions
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

from evomerge.models.references import is_file
from evomerge.trust.consent import check_allowed

_PACKAGES = ("site-packages", "dist-packages")

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
        _imported.add(name)
    return importlib.import_module(name)


def is_of_host(name: str) -> bool:
    """Return whether a module was imported by the program that uses evomerge, not by evomerge."""
    return name in sys.modules and name not in _imported


def files_of_module(name: str) -> list[Path]:
    """Return the files of a module and of all modules that it imports, without installed ones.

    Of a package these are all files with code in its folder. A module that cannot be found has
    none.
    """
    importlib.invalidate_caches()  # files may have been written just before
    return with_imports(_found(name.split("."), sys.path))


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
                waiting += _found(parts, map(str, file.parents[above - 1 : above]))
                continue
            waiting += _found(parts, sys.path)
            if parts[0] not in sys.stdlib_module_names:
                waiting += _found(parts, [str(file.parent)])
    return list(found)


def _found(parts: Sequence[str], folders: Iterable[str]) -> list[Path]:
    """Return the files of a module, in the first of some folders that has it."""
    first, *others = parts
    if not first or first in sys.builtin_module_names:
        return []
    spec = PathFinder.find_spec(first, list(folders))
    if spec is None:
        return []
    if spec.origin is None:  # a namespace package, which has no file of its own
        return _found(others, spec.submodule_search_locations or ()) if others else []
    file = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return [file]
    return [] if is_installed(file) else _package(file.parent)


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


def is_installed(file: Path) -> bool:
    """Return whether a file stands in an installed package, or is one of Python's own."""
    place = file.resolve()
    return any(root == place or root in place.parents for root in _roots())


@cache
def _roots() -> frozenset[Path]:
    """Return the folders and modules in which everything is installed."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {Path(sysconfig.get_path(name)).resolve() for name in names}
    here = Path.cwd()  # a stranger may have named it so
    searched = [Path(place).resolve() for place in sys.path]
    folders |= {place for place in searched if place.name in _PACKAGES and place != here}
    packages = distributions(path=[str(folder) for folder in folders])
    editable = {place for item in packages for place in _editable(item)}
    return frozenset(folders | editable | {Path(__file__).resolve().parents[1]})


def _editable(distribution: Distribution) -> Iterator[Path]:
    """Yield the packages of an editable installation; its folder may hold other things too."""
    about = json.loads(distribution.read_text("direct_url.json") or "{}")
    if about.get("dir_info", {}).get("editable"):
        project = Path(unquote(urlsplit(about["url"]).path)).resolve()
        own = re.sub(r"[-.]+", "_", distribution.name)
        names = (distribution.read_text("top_level.txt") or own).split()
        for name in {*names, own.lower()}:
            for folder in (project, project / "src"):
                yield from (folder / name, folder / f"{name}.py")
