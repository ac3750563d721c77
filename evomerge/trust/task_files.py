"""The files whose code runs when lm-eval loads a task from YAML. Nothing is run here.

Code is a function that a YAML file names (`!function`) with the file that it stands in, a metric
that is not lm-eval's own (Hugging Face's `evaluate` runs its script), a data set with a script of
its own, and data files in a file system of fsspec, of which some run templates of their index.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

from evomerge.errors import ConfigError
from evomerge.models.references import is_file
from evomerge.parsing.values import shown
from evomerge.parsing.yaml import RefusedError, check_aliases
from evomerge.trust.modules import files_of_module, is_installed, with_imports

_PICKLED = "pandas"  # the builder of `datasets` that reads pickled data frames
_PLAIN = frozenset({"file", "hf", "http", "https"})  # protocols of data files that run nothing
_OBJECT = "tag:yaml.org,2002:python/"
_INVALID = (OSError, yaml.YAMLError, ValueError, OverflowError, RecursionError)

Find: TypeAlias = Callable[[str], tuple[Path | None, Iterable[str]]]
"""Returns the YAML file of a task or group, if there is one, and the names of a tag's tasks."""


class _TaskFile(NamedTuple):
    """What stands behind `!function` in a YAML file, and all mappings in its content."""

    functions: list[str]
    mappings: list[Mapping[Any, Any]]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads task YAML, with None in place of functions."""


yaml.add_constructor("!function", lambda loader, node: None, Loader=_Loader)


def check_task_files(include: Iterable[Path]) -> bool:
    """Check all task YAML in folders, which lm-eval reads to list its tasks.

    Returns:
        whether any of it has code. Installed folders have none.

    Raises:
        ConfigError: a YAML file has a tag of Python objects, or aliases that expand to a lot.
    """
    own = (folder for folder in include if not is_installed(folder))
    found = _with_includes(path for folder in own for path in sorted(folder.rglob("*.yaml")))
    return any(any(_code(path, file)) for path, file in found.items())


def files_of_tasks(names: Iterable[str], find: Find) -> list[Path]:
    """Return the files with code of tasks, groups and tags, without installed ones.

    They are those of the YAML files that they are read from, and of all tasks that are named there.

    Raises:
        ConfigError: as for `check_task_files`, or a task reads pickles.
    """
    importlib.invalidate_caches()
    files: dict[Path, _TaskFile] = {}
    waiting = list(names)
    seen = set()
    for name in waiting:
        if name not in seen:
            seen.add(name)
            yaml_file, members = find(name)
            found = _with_includes([yaml_file] if yaml_file else [])
            files |= found
            waiting += members
            for keys in chain(*(file.mappings for file in found.values())):
                waiting += _texts([keys.get("task"), keys.get("group")])
    for path, file in files.items():
        if any(keys.get("dataset_path") == _PICKLED for keys in file.mappings):
            raise ConfigError(
                f"{path}: `dataset_path` is {_PICKLED!r}, which reads pickles, and a pickle can "
                "run code when it is read; store the documents as JSON or Parquet."
            )
    return with_imports(chain(*(_code(path, file) for path, file in files.items())))


def _with_includes(paths: Iterable[Path]) -> dict[Path, _TaskFile]:
    """Read YAML files and all that they include."""
    found: dict[Path, _TaskFile] = {}
    waiting = list(paths)
    for path in waiting:
        if is_file(path) and (file := path.resolve()) not in found:
            found[file] = _read(file)
            for name in _texts([keys.get("include") for keys in found[file].mappings]):
                waiting += [file.parent / name, Path(name)]  # lm-eval's versions differ
    return found


def files_of_metric(name: str) -> list[Path]:
    """Return the local script that Hugging Face's `evaluate` runs for a metric; else no file."""
    path = Path(name)
    script = path if path.suffix == ".py" else path / f"{path.name}.py"
    return [script.resolve()] if is_file(script) else []


def _code(path: Path, file: _TaskFile) -> Iterator[Path]:
    """Yield the files of functions and scripts that a YAML file names, and the YAML file."""
    for module in (name.rpartition(".")[0] for name in file.functions):
        places = (module.replace(".", "/"), module)  # by the version of lm-eval
        beside = [path.parent / f"{place}.py" for place in places]
        yield from (path, *(list(filter(is_file, beside)) or files_of_module(module)))
    for keys in file.mappings:
        metric, place = keys.get("metric"), keys.get("dataset_path")
        scripts = [script for name in _texts([metric, place]) for script in files_of_metric(name)]
        if (
            scripts
            or "/" in str(metric)  # of somebody on the Hub
            or keys.get("trust_remote_code")
            or keys.get("storage_options")
            or any(map(_is_elsewhere, _texts(keys.get("dataset_kwargs"))))
        ):
            yield from (path, *scripts)


def _is_elsewhere(place: str) -> bool:
    """Return whether a place of data files is in a file system that may run code."""
    protocol, separator, _ = place.partition("://")
    return "::" in place or (bool(separator) and protocol.lower() not in _PLAIN)


def _read(file: Path) -> _TaskFile:
    """Return what stands in a YAML file, without content if it is not valid.

    Functions are taken from the nodes, since lm-eval calls for them while it makes the content: for
    those in keys too, and for those before what is not valid.

    Raises:
        ConfigError: it makes Python objects, or has aliases that lm-eval would expand to a lot.
    """
    functions: list[str] = []
    content = None
    try:
        loader = _Loader(file.read_bytes())
        if (root := loader.get_single_node()) is not None:
            check_aliases(root)
            functions += _functions(root)
            content = _content(loader, root)
    except RefusedError as found:
        raise ConfigError(f"{file}, line {found.line}: {found}.") from None
    except _INVALID:  # lm-eval cannot read it either
        pass
    return _TaskFile(functions, [item for item in _values(content) if isinstance(item, Mapping)])


def _content(loader: _Loader, root: yaml.Node) -> Any:
    """Return the content of a YAML file; None if a value is of another type than its tag says."""
    try:
        return loader.construct_document(root)
    except (*_INVALID, LookupError, AttributeError):
        return None


def _functions(node: yaml.Node) -> Iterator[str]:
    """Yield what stands behind `!function` in a node and in all inside of it."""
    if node.tag.startswith(_OBJECT):
        raise RefusedError(
            f"the YAML tag {shown(node.tag.removeprefix(_OBJECT))} makes a Python object, which "
            "can run code; write plain values, or name a function by `!function`",
            node.start_mark,
        )
    if isinstance(node, yaml.ScalarNode):
        yield from [node.value] if node.tag == "!function" else []
    else:
        for item in node.value:  # a mapping has pairs of a key and a value
            yield from chain(*map(_functions, item if isinstance(item, tuple) else (item,)))


def _texts(value: Any) -> Iterator[str]:
    return (item for item in _values(value) if isinstance(item, str))


def _values(value: Any) -> Iterator[Any]:
    """Yield a value, and all keys and values inside of it."""
    yield value
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    for item in value if isinstance(value, (list, tuple, set)) else ():
        yield from _values(item)
