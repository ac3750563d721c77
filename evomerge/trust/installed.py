"""Which files count as installed in this environment, by the choice of its user.

These are the files of Python itself, of its packages (in `site-packages`), of this package, and of
packages that pip has installed as editable ones. Files in the working folder and in other folders
of PYTHONPATH are not among them.
"""

from __future__ import annotations

import json
import re
import site
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, distributions
from pathlib import Path
from urllib.parse import unquote, urlsplit

_PACKAGES = ("site-packages", "dist-packages")


def is_installed(file: Path) -> bool:
    """Return whether a file stands in an installed package, or is one of Python's own."""
    place = file.resolve()
    return any(root == place or root in place.parents for root in _roots())


@cache
def _roots() -> frozenset[Path]:
    """Return the folders and modules in which everything is installed."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {Path(sysconfig.get_path(name)).resolve() for name in names}
    folders |= {Path(name).resolve() for name in site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        folders.add(Path(site.getusersitepackages()).resolve())
    folders |= {other for folder in folders for other in _linked(folder)}
    editable = {
        place
        for item in distributions(path=[str(folder) for folder in folders])
        for place in _editable(item)
    }
    return frozenset(folders | editable | {Path(__file__).resolve().parents[1]})


def _linked(folder: Path) -> Iterator[Path]:
    """Yield the package folders of other environments that `.pth` files add to a folder."""
    for file in folder.glob("*.pth"):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            other = folder / line.strip()
            if line.strip() and other.name in _PACKAGES and other.is_dir():
                yield other.resolve()


def _editable(distribution: Distribution) -> Iterator[Path]:
    """Yield the packages of an editable installation; its folder may hold other things too."""
    text = distribution.read_text("direct_url.json")
    about = json.loads(text) if text else {}
    if not about.get("dir_info", {}).get("editable"):
        return
    project = Path(unquote(urlsplit(about["url"]).path)).resolve()
    own = re.sub(r"[-.]+", "_", distribution.metadata["Name"] or "")
    names = (distribution.read_text("top_level.txt") or own).split()
    for name in {*names, own.lower()}:
        spec = PathFinder.find_spec(name, [str(project), str(project / "src")])
        if spec is not None and spec.origin is not None:
            file = Path(spec.origin).resolve()
            yield file.parent if spec.submodule_search_locations else file
