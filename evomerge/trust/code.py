"""Which code a search file names: modules, and the task YAML for which lm-eval runs code.

To find out runs nothing. Installed, by the choice of the user, are Python itself, its packages (in
`site-packages`), this package and lm-eval. Code of YAML is a function that it names (`!function`)
or any other tag of its own, a metric that is not lm-eval's own (Hugging Face's `evaluate` runs its
script), a data set with a script of its own or of pickles, and data files in a file system of
fsspec, of which some run templates.
"""

import importlib
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

import yaml

from evomerge.models.references import is_file

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # lm-eval takes that of C too
_PLAIN = "tag:yaml.org,2002:"
_PROTOCOLS = frozenset({"file", "hf", "http", "https"})  # of data files that run nothing


def code_of_module(name: str) -> list[Path]:
    """Return the files that Python runs first to import a module.

    There are none if it is installed, or if the program has imported it already.
    """
    if name in sys.modules:
        return []
    importlib.invalidate_caches()  # files may have been written just before
    first, *rest = name.split(".")
    spec = PathFinder.find_spec(first) if first else None
    if spec is None:
        return []
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    inside = [folder.joinpath(*rest).with_suffix(".py") for folder in folders if rest]
    files = [Path(spec.origin)] if spec.origin else folders
    return [file for file in (*files, *filter(is_file, inside)) if not is_installed(file)]


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


def has_script(name: str) -> bool:
    """Whether a metric or a data set is a Python script on this machine."""
    path = Path(name)
    return is_file(path if path.suffix == ".py" else path / f"{path.name}.py")


def _is_elsewhere(place: str) -> bool:
    """Whether a place of data files is in a file system that may run code."""
    protocol, separator, _ = place.partition("://")
    return "::" in place or (bool(separator) and protocol.lower() not in _PROTOCOLS)


_RUNS: dict[str, Callable[[str], bool]] = {
    "metric": lambda name: "/" in name or has_script(name),
    "dataset_path": lambda name: name == "pandas" or has_script(name),
    "dataset_kwargs": _is_elsewhere,
}
"""Key -> whether lm-eval runs code for a text in its value."""


def code_of_tasks(folders: Iterable[Path]) -> list[Path]:
    """Return the files with code: YAML in folders, what it includes, modules of its functions.

    Installed files have none, also where others include them. A file that is no valid YAML has
    none, since lm-eval reads it with the same parser.
    """
    strange = (folder for folder in folders if not is_installed(folder))
    waiting = [path for folder in strange for path in sorted(folder.rglob("*.yaml"))]
    code_of: dict[Path, list[Path]] = {}
    for path in waiting:
        if not is_file(path) or (file := path.resolve()) in code_of or is_installed(file):
            continue
        try:
            nodes = list(_inside(yaml.compose(file.read_bytes(), Loader=_Loader)))
        except (OSError, yaml.YAMLError, ValueError, RecursionError):
            nodes = []
        tags = [str(node.value) for node in nodes if node.tag == "!function"]
        beside = [file.parent / f"{name.rpartition('.')[0]}.py" for name in tags]
        code_of[file] = [file, *filter(is_file, beside)] if any(map(_runs, nodes)) else []
        for name in (text for node in nodes for text in _texts(node, "include")):
            waiting += [file.parent / name, Path(name)]  # lm-eval's versions differ
    return list(dict.fromkeys(file for files in code_of.values() for file in files))


def _inside(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Yield a node and all nodes inside of it, each once."""
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if not isinstance(node, yaml.ScalarNode):
            for item in node.value:  # a mapping has pairs of a key and a value
                waiting += item if isinstance(item, tuple) else [item]


def _runs(node: yaml.Node) -> bool:
    """Whether lm-eval runs code for a node."""
    is_plain = node.tag.startswith(_PLAIN) and not node.tag.startswith(f"{_PLAIN}python/")
    keys = [name.value for name, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    texts = ((runs, text) for key, runs in _RUNS.items() for text in _texts(node, key))
    allows = "trust_remote_code" in keys or "storage_options" in keys  # whatever the value
    return not is_plain or allows or any(runs(text) for runs, text in texts)


def _texts(node: yaml.Node, key: str) -> Iterator[str]:
    """Yield all texts in the values that a mapping has for a key."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    for value in (value for name, value in pairs if name.value == key):
        yield from (item.value for item in _inside(value) if isinstance(item, yaml.ScalarNode))
