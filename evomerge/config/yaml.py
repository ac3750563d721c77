"""Reading the YAML of a search file, and replacing values by `--set`."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError
from evomerge.parsing.texts import read_text
from evomerge.parsing.values import shown
from evomerge.parsing.yaml import yaml_mapping, yaml_value


def read(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Return the mapping in a search file, with `key.path=value` overrides.

    Raises:
        ConfigError: the file cannot be read or is not a mapping, or an override is wrong.
    """
    missing = (
        f"{path} does not exist; `evomerge init {shlex.quote(str(path))}` writes one to start from."
    )
    text = read_text(path, ConfigError, missing)
    data = yaml_mapping(text, str(path), "a search file", ConfigError)
    _check_kind(data, path)
    for item in overrides or []:
        override(data, item)
    return data


def _check_kind(data: Mapping[str, Any], path: Path) -> None:
    """Raise a `ConfigError` if a file is one of another tool, or a recipe, by its keys."""
    if "objectives" in data:
        return
    quoted = shlex.quote(str(path))
    merge = f"`evomerge merge {quoted} --out DIR` builds its model"
    mixture = f"`mergekit-moe {quoted} DIR` makes its mixture of experts, a parent"
    start = "`evomerge init` writes a search file to start from"
    keys_here = f"docs/from-other-tools.md has its keys beside those of a search file, and {start}"
    for kind, keys, fix in (
        ("a config of mergekit-evolve", {"genome"}, keys_here),
        ("a config of mergenetic", {"pop_size", "n_iter"}, keys_here),
        ("a mergekit file", {"merge_method"}, f"{merge}, and {start}"),
        ("a file of mergekit-moe", {"experts"}, f"{mixture}, and {start}"),
        ("a recipe", {"layers", "host"}, f"{merge}, and {start}"),
    ):
        if keys <= data.keys():
            raise ConfigError(f"{path} is {kind}, and no search file; {fix}.")


def override(data: dict[str, Any], item: str) -> None:
    """Replace a value of a search file by that of an item `key.path=value`; make missing mappings.

    Raises:
        ConfigError: the item is of another form, or there is no such place.
    """
    path, separator, text = item.partition("=")
    if not separator or not path:
        raise ConfigError(f"--set {shown(item)} is not of the form key.path=value.")
    value = yaml_value(text, f"--set {shown(item)}", ConfigError)
    target: Any = data
    *above, last = path.split(".")
    for key in above:
        index = _index(target, key, item)
        if isinstance(target, dict):
            target.setdefault(index, {})
        target = target[index]
    target[_index(target, last, item)] = value


def _index(target: Any, key: str, item: str) -> str | int:
    """Return the key of a mapping, or the index of a list, that a part of a path means."""
    if isinstance(target, dict):
        return key
    if not isinstance(target, list):
        raise ConfigError(
            f"--set {shown(item)}: {shown(key)} does not exist, since a plain value has no keys."
        )
    if key not in map(str, range(len(target))):
        raise ConfigError(
            f"--set {shown(item)}: {shown(key)} must be an index from 0 to {len(target) - 1} of a "
            "list."
        )
    return int(key)
