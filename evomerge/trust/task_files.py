"""The files whose code runs when lm-eval loads a task from YAML. Nothing is run here.

Code is a function that a YAML file names (`!function`) with the file that it stands in, a metric
that is not lm-eval's own (Hugging Face's `evaluate` runs its script), a data set with a script of
its own, and data files in a file system of fsspec, of which some run templates of their index.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from evomerge.errors import ConfigError
from evomerge.models.references import is_file
from evomerge.parsing.values import shown
from evomerge.parsing.yaml import RefusedError, check_aliases
from evomerge.trust.modules import files_of_module, is_installed, with_imports

_Parts: TypeAlias = dict[Path, Mapping[Any, Any]]
"""A YAML file and the files that it includes -> their contents; the file itself comes first."""

_PICKLED = "pandas"  # the builder of `datasets` that reads pickled data frames

_PLAIN = frozenset({"file", "hf", "http", "https"})  # protocols of data files that run nothing


class FunctionName(str):
    """What stands behind `!function` in a YAML file: the name of a function, `module.function`."""


def files_of_tasks(names: Iterable[str], include: Sequence[Path]) -> list[Path]:
    """Return the files with code of tasks and groups, without installed ones.

    Args:
        include: folders with task YAML. Tasks that are not defined there are lm-eval's own.

    Raises:
        ConfigError: a YAML file in these folders has a tag of Python objects, or aliases that
            expand to a lot, or a task reads pickles.
    """
    importlib.invalidate_caches()
    waiting = [
        _with_includes(path)
        for folder in include
        if not is_installed(folder)
        for path in sorted(folder.rglob("*.yaml"))
    ]
    wanted = set(names)
    found: dict[Path, None] = {}
    while new := [file for file in waiting if _defines(file, wanted)]:
        waiting = [file for file in waiting if file not in new]
        # All texts of a task or group could be the name of another one.
        wanted |= {
            text
            for file in new
            for content in file.values()
            for text in _all_texts([content.get("task"), content.get("group")])
        }
        for path, content in (part for file in new for part in file.items()):
            code = list(_code(content, path))
            if code and not is_installed(path):
                found[path] = None
            found |= dict.fromkeys(with_imports(code))
    return list(found)


def _defines(file: _Parts, names: set[str]) -> bool:
    """Return whether one of these tasks, groups or tags is defined in a file.

    What the file itself says of a key takes the place of what the files say that it includes.
    """
    own = next(iter(file.values()), {})
    return any(
        name in names
        for key in ("task", "group", "tag")
        for content in ([own] if key in own else file.values())
        for name in _texts(content.get(key))
        if key != "task" or isinstance(content[key], str)  # a list is of the tasks of a group
    )


def files_of_metric(name: str) -> list[Path]:
    """Return the local script that Hugging Face's `evaluate` runs for a metric; else no file."""
    path = Path(name)
    script = path if path.suffix == ".py" else path / f"{path.name}.py"
    return [script.resolve()] if is_file(script) else []


def _code(content: Mapping[Any, Any], path: Path) -> Iterator[Path]:
    """Yield the files with code that the content of a YAML file names, and the file itself."""
    for value in _values(content):
        if isinstance(value, FunctionName):
            module = value.rpartition(".")[0]
            beside = path.parent / f"{module.replace('.', '/')}.py"  # where lm-eval looks first
            yield from (path, *([beside] if is_file(beside) else files_of_module(module)))
        elif isinstance(value, Mapping):  # a group can have the keys of its tasks inside
            yield from _metrics_and_data(value, path)


def _metrics_and_data(content: Mapping[Any, Any], path: Path) -> Iterator[Path]:
    """Yield the files with code that the keys of one task name, and its YAML file itself."""
    listed, place = content.get("metric_list"), content.get("dataset_path")
    named = [
        item.get("metric") if isinstance(item, Mapping) else item
        for item in (listed if isinstance(listed, list) else ())
    ]
    metrics = [name for name in _texts(named) if not isinstance(name, FunctionName)]
    if place == _PICKLED:
        raise ConfigError(
            f"{path}: `dataset_path` is {_PICKLED!r}, which reads pickles, and a pickle can run "
            "code when it is read; store the documents as JSON or Parquet."
        )
    scripts = [file for name in (*metrics, *_texts(place)) for file in files_of_metric(name)]
    options = content.get("dataset_kwargs")
    options = options if isinstance(options, Mapping) else {}
    if (
        scripts
        or any("/" in metric for metric in metrics)  # of somebody on the Hub
        or options.get("trust_remote_code")
        or options.get("storage_options")
        or any(map(_is_elsewhere, _all_texts(options)))
    ):
        yield from (*scripts, path)


def _is_elsewhere(place: str) -> bool:
    """Return whether a place of data files is in a file system that may run code."""
    protocol, separator, _ = place.partition("://")
    return "::" in place or (bool(separator) and protocol.lower() not in _PLAIN)


def _with_includes(path: Path) -> _Parts:
    """Read a YAML file and all that it includes."""
    parts: _Parts = {}
    waiting = [path]
    while waiting:
        named = waiting.pop()
        if not is_file(named) or (file := named.resolve()) in parts:
            continue
        content = parts[file] = _content(file)
        for value in _values(content):
            for name in _texts(value.get("include")) if isinstance(value, Mapping) else ():
                # Versions of lm-eval differ in which of these comes first.
                waiting += [file.parent / name, Path(name)]
    return parts


def _content(file: Path) -> Mapping[Any, Any]:
    """Return the content of a YAML file; nothing if it has none that lm-eval can use.

    Raises:
        ConfigError: it makes Python objects, or has aliases that lm-eval would expand to a lot.
    """
    try:
        loader = _Loader(file.read_bytes())
        node = loader.get_single_node()
        if node is None:
            return {}
        check_aliases(node)
        content = loader.construct_document(node)
    except RefusedError as found:
        raise ConfigError(f"{file}, line {found.line}: {found}.") from None
    except Exception:  # YAML raises anything for values of another type than their tag says
        return {}
    return content if isinstance(content, Mapping) else {}


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str)]


def _all_texts(value: Any) -> Iterator[str]:
    return (item for item in _values(value) if isinstance(item, str))


def _values(value: Any) -> Iterator[Any]:
    """Yield a value and all values inside of it; what an alias repeats is yielded once."""
    waiting, seen = [value], set[int]()
    while waiting:
        item = waiting.pop()
        yield item
        if isinstance(item, (Mapping, list)) and id(item) not in seen:
            seen.add(id(item))
            waiting += item.values() if isinstance(item, Mapping) else item


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads task YAML, with the names of functions in place of functions."""


def _function(loader: yaml.Loader, node: yaml.Node) -> FunctionName:
    return FunctionName(loader.construct_scalar(node))  # type: ignore[arg-type]


def _refuse(loader: yaml.Loader, suffix: str, node: yaml.Node) -> Any:
    raise RefusedError(
        f"the YAML tag {shown(suffix)} makes a Python object, which can run code; write plain "
        "values, or name a function by `!function`",
        node.start_mark,
    )


yaml.add_constructor("!function", _function, Loader=_Loader)
yaml.add_multi_constructor("tag:yaml.org,2002:python/", _refuse, Loader=_Loader)
