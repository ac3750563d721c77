"""Which code of a search is not installed, and the consent of the user to run it.

Installed, by the choice of the user, are Python itself, its packages (in `site-packages`), this
package and lm-eval. To find out runs nothing. Consent is given with each command: what a run
records of it allows nothing, since a run folder may come from somebody else.
"""

import importlib
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from evomerge.errors import ConfigError
from evomerge.models.references import is_file


@dataclass(frozen=True)
class Permissions:
    """What the user allows a search to do.

    Attributes:
        allow_code: accept tasks that run code which models write.
        trust_code: run code that the search file names and that is in no installed package.
    """

    allow_code: bool = False
    trust_code: bool = False

    def require(self, files: Sequence[Path]) -> None:
        """Raise a ConfigError if there are files with code of a search, and it is not trusted."""
        if not files or self.trust_code:
            return
        named = ", ".join(map(str, files[:6])) + (" and others" if files[6:] else "")
        raise ConfigError(
            f"This search runs code of its own: {named}; read it, then allow it with --trust-code."
        )


NOTHING = Permissions()


def code_of_module(name: str) -> list[Path]:
    """Return the files that Python runs first to import a module.

    There are none if it is installed, or if the program has imported it already.
    """
    if name in sys.modules:
        return []
    return [file for file in files_of_module(name) if not is_installed(file)]


def files_of_module(name: str) -> list[Path]:
    """Return the file of a module and of the package that it is in, or the folder of the latter."""
    importlib.invalidate_caches()  # files may have been written just before
    first, *rest = name.split(".")
    spec = PathFinder.find_spec(first) if first else None
    if spec is None:
        return []
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    inside = [folder.joinpath(*rest).with_suffix(".py") for folder in folders if rest]
    files = [Path(spec.origin)] if spec.origin else folders
    return [*files, *filter(is_file, inside)]


def is_installed(file: Path) -> bool:
    """Whether a file stands in an installed package, or is one of Python's own."""
    place = file.resolve()
    return not _roots().isdisjoint([place, *place.parents])


@cache
def _roots() -> frozenset[Path]:
    """Return the folders in which everything is installed."""
    python = map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))
    places = {Path(place).resolve() for place in sys.path}
    places.discard(Path.cwd())  # a stranger may have named it so
    packages = {place for place in places if place.name in ("site-packages", "dist-packages")}
    specs = (find_spec("evomerge"), find_spec("lm_eval"))  # often installed as editable
    editable = [place for spec in specs if spec for place in spec.submodule_search_locations or ()]
    return frozenset(packages.union(Path(folder).resolve() for folder in (*python, *editable)))
