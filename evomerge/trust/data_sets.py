"""Which data sets that task YAML names run code when they are loaded. Nothing of them runs.

Those are scripts, pickles, kinds of files that are no plain data, and places in file systems of
fsspec: some of these run templates. A folder may say so in its card, too.
"""

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from evomerge.compat.fsspec import is_sandboxed
from evomerge.models.references import is_file, is_folder

_PROTOCOLS = frozenset({"file", "hf", "http", "https"})  # of data files that run nothing
_PLAIN = frozenset(
    {
        *("arrow", "audiofolder", "csv", "imagefolder", "json", "parquet"),
        *("pdffolder", "text", "videofolder", "xml"),
    }
)
"""Kinds of files of `datasets` that hold data only."""

_CARDS = ("README.md", ".huggingface.yaml", "dataset_infos.json")
_MOST = 1 << 20  # bytes of a card


def runs_code(node: yaml.Node) -> bool:
    """Whether the data set that a mapping of task YAML names may run code."""
    keys = [name.value for name, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    if "trust_remote_code" in keys or "storage_options" in keys or "use_prompt" in keys:
        return True  # whatever the value; a prompt is read from another file
    files = [*texts_in(node, "dataset_kwargs"), *texts_in(node, "dataset_name")]
    return any(map(_is_elsewhere, files)) or any(map(_is_code, texts_in(node, "dataset_path")))


def texts_in(node: yaml.Node, key: str) -> Iterator[str]:
    """Yield all texts in the values that a mapping has for a key."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    waiting, seen = [value for name, value in pairs if name.value == key], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, yaml.ScalarNode):
            yield str(value.value)
        else:
            for child in value.value:
                waiting += child if isinstance(child, tuple) else [child]


def find_script(name: str) -> Path | None:
    """Return the script in the working folder that a data set or metric of a name would be."""
    path = Path(name)
    beside = path / f"{path.name}.py"
    return next(filter(is_file, (path, beside)), None) if name else None


def find_data(name: str, is_all: bool) -> Path | None:
    """Return the folder that a data set of a name would be: any, or one that runs code."""
    path = Path(name)
    if name in _kinds() or not (is_folder(path) or is_file(path)):
        return None
    return path if is_all or _is_code(name) else None


def _is_elsewhere(place: str) -> bool:
    """Whether a place of data files is in a file system that may run code."""
    protocol, separator, _ = place.partition("://")
    return "::" in place or (bool(separator) and protocol.lower() not in _PROTOCOLS)


def _is_code(name: str) -> bool:
    """Whether the data set of a name is a script, no plain data, or has a card that names such."""
    if name in _PLAIN:
        return False
    path = Path(name)
    if name in _kinds() or find_script(name) or _is_elsewhere(name):
        return True
    cards = [path / card for card in _CARDS if is_file(path / card)]
    if not is_sandboxed() and (cards or not is_folder(path)):  # on the Hub there is a card, too
        return True
    return any(map(_names_code, cards))


@cache
def _kinds() -> frozenset[str]:
    """Return the kinds of files that the installed `datasets` knows."""
    spec = find_spec("datasets")
    folders = map(Path, (spec and spec.submodule_search_locations) or ())
    inside = (path for folder in folders for path in folder.glob("packaged_modules/*"))
    return frozenset(path.name for path in inside if is_folder(path))


def _names_code(card: Path) -> bool:
    """Whether the card of a data set names files elsewhere; also if it cannot be read."""
    from huggingface_hub import DatasetCard

    try:
        with card.open("rb") as file:
            content = file.read(_MOST + 1)
        text = content.decode("utf-8-sig")
        if len(content) > _MOST:
            return True
        if card.name == "README.md":
            about: Any = DatasetCard(text, ignore_metadata_errors=True).data
            data = about.to_dict()
        else:
            data = yaml.safe_load(text)
    except Exception:  # `datasets` may read what cannot be read here
        return True
    return any(map(_is_elsewhere, _strings(data)))


def _strings(data: Any) -> Iterator[str]:
    """Yield all texts in parsed data, keys included."""
    waiting, seen = [data], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))
            waiting += [*value, *(value.values() if isinstance(value, dict) else ())]
