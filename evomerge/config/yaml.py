"""YAML files as people write them: keys that stand once, values that `--set` replaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from evomerge.errors import ConfigError


def read(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Read a search file's mapping, with `key.path=value` overrides.

    Raises:
        ConfigError: the file cannot be read, or an override leads nowhere.
    """
    data = read_yaml(path)
    for item in overrides or []:
        _override(data, item)
    return data


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping, refusing keys that stand twice.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist; `evomerge init {path}` writes one to start from."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path} is not valid YAML{where}: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}.") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is not a search file: it must be a YAML mapping of keys.")
    return data


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.value != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _override(data: dict[str, Any], item: str) -> None:
    path, separator, text = item.partition("=")
    if not separator or not path:
        raise ConfigError(f"--set {item!r} is not of the form key.path=value.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {item!r}: {text!r} is not a YAML value.") from None
    target: Any = data
    *parents, last = path.split(".")
    for key in parents:
        target = _descend(target, key, item)
    if isinstance(target, list):
        target[_index(target, last, item)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise ConfigError(f"--set {item!r}: {path!r} leads through a plain value.")


def _descend(target: Any, key: str, item: str) -> Any:
    if isinstance(target, list):
        return target[_index(target, key, item)]
    if isinstance(target, dict):
        return target.setdefault(key, {})
    raise ConfigError(f"--set {item!r}: {key!r} leads through a plain value.")


def _index(target: list[Any], key: str, item: str) -> int:
    if not key.isdigit() or int(key) >= len(target):
        raise ConfigError(
            f"--set {item!r}: {key!r} must be an index from 0 to {len(target) - 1} of a list."
        )
    return int(key)
