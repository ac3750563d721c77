"""Running allowed files, and exactly the bytes that were allowed.

Python itself reads a file anew when it imports it, or takes a compiled file beside it
(`__pycache__`), which may come from somewhere else. Here a file is read once, compared with the
digest that was allowed, and compiled.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from evomerge.trust.files import CodeFile, digest_of
from evomerge.trust.installed import is_installed
from evomerge.trust.modules import files_of_module

_allowed: dict[str, str] = {}
"""File -> digest of the content that this process may run."""

_names: set[str] = set()
"""Last parts of the names of the modules in these files."""


class NotAllowedError(Exception):
    """A file was not allowed, or is no longer what was allowed. The text says which one."""


def allow(files: Iterable[CodeFile]) -> None:
    """Let this process run these files, as long as they have these digests."""
    given = {str(file.path): file.digest for file in files}
    _allowed.update(given)
    _names.update(_name(Path(file)) for file in given)
    if _allowed and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def allowed() -> Mapping[str, str]:
    """Return path -> digest of each file that this process may run."""
    return dict(_allowed)


def allow_again(files: Mapping[str, str]) -> None:
    """Let this process run what another one may run: the value of `allowed` there."""
    allow(CodeFile(Path(name), digest) for name, digest in files.items())


def import_allowed(name: str) -> ModuleType:
    """Import a module.

    Raises:
        NotAllowedError: one of its files was not allowed, or has changed.
        Exception: whatever its code raises.
    """
    if name not in sys.modules:
        for file in files_of_module(name):
            read(file)
        importlib.invalidate_caches()
    return importlib.import_module(name)


def is_loaded(name: str) -> bool:
    """Return whether a module is one that was allowed and run here."""
    return isinstance(getattr(sys.modules.get(name), "__loader__", None), _Loader)


def load_allowed(name: str, file: Path) -> ModuleType:
    """Return the module in a file; its code runs, unless the same code has run already.

    Args:
        name: the name that the module gets.
        file: the file.

    Raises:
        NotAllowedError: the file was not allowed, or has changed.
        Exception: whatever its code raises.
    """
    file = file.resolve()
    known = sys.modules.get(name)
    if known is not None and is_loaded(name):
        loader: Any = known.__loader__
        if (loader.path, loader.ran) == (str(file), _allowed.get(str(file))):
            return known
    spec = importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module


def read(path: Path) -> bytes:
    """Return the content of a file that is allowed or installed.

    Raises:
        NotAllowedError: it is neither, or it has changed.
    """
    path = path.resolve()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotAllowedError(f"{path} cannot be read: {error.strerror}") from None
    if str(path) not in _allowed:
        if is_installed(path):
            return data
        raise NotAllowedError(f"{path} was not allowed to run")
    if digest_of(data) != _allowed[str(path)]:
        raise NotAllowedError(f"{path} has changed since it was allowed to run")
    return data


class _Loader(SourceFileLoader):
    """Runs the allowed bytes of a file, never a compiled file."""

    ran: str | None = None

    def get_code(self, fullname: str) -> CodeType:
        """Return the compiled code of the file."""
        data = read(Path(self.path))
        self.ran = digest_of(data)
        code: CodeType = self.source_to_code(data, self.path)
        return code


class _Finder(MetaPathFinder):
    """Finds modules in allowed files, for every `import` of this process; all others are passed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how an allowed file is loaded; None if the module is not in one."""
        if fullname.rpartition(".")[2] not in _names:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return None
        file = str(Path(spec.origin).resolve())
        if file not in _allowed:
            return None
        if isinstance(spec.loader, SourceFileLoader):
            return importlib.util.spec_from_file_location(
                fullname,
                file,
                loader=_Loader(fullname, file),
                submodule_search_locations=spec.submodule_search_locations,
            )
        read(Path(file))  # a compiled module is loaded by its name
        return spec


def _name(file: Path) -> str:
    """Return the last part of the name of the module in a file."""
    stem = file.name.partition(".")[0]
    return file.parent.name if stem == "__init__" else stem
