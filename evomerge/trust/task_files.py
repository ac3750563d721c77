"""The files whose code runs when lm-eval loads a task from YAML. Nothing is run here.

Code is a function that a YAML file names (`!function`) with the file that it stands in, a metric
that is not lm-eval's own (Hugging Face's `evaluate` runs its script), a data set with a script of
its own, and data files in a file system of fsspec, of which some run templates of their index.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from evomerge.errors import ConfigError
from evomerge.models.references import is_file
from evomerge.parsing.values import shown
from evomerge.parsing.yaml import RefusedError, check_aliases
from evomerge.trust.modules import files_of_module, is_installed, with_imports

_PICKLED = "pandas"  # the builder of `datasets` that reads pickled data frames
_PLAIN = frozenset({"file", "hf", "http", "https"})  # protocols of data files that run nothing
_OBJECT = "tag:yaml.org,2002:python/"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads task YAML, with None in place of functions."""


yaml.add_constructor("!function", lambda loader, node: None, Loader=_Loader)


def files_of_tasks(include: Sequence[Path]) -> list[Path]:
    """Return the files with code of all tasks in folders of task YAML, without installed ones.

    Raises:
        ConfigError: a YAML file has a tag of Python objects, or aliases that expand to a lot, or a
            task reads pickles.
    """
    importlib.invalidate_caches()
    own = (folder for folder in include if not is_installed(folder))
    waiting = [path for folder in own for path in sorted(folder.rglob("*.yaml"))]
    code: dict[Path, list[Path]] = {}
    for path in waiting:
        if is_file(path) and (file := path.resolve()) not in code:
            functions, content = _read(file)
            mappings = [value for value in _values(content) if isinstance(value, Mapping)]
            code[file] = [*_of_functions(functions, file), *_of_keys(mappings, file)]
            for name in _texts([keys.get("include") for keys in mappings]):
                waiting += [file.parent / name, Path(name)]  # lm-eval's versions differ
    return with_imports(chain(*code.values()))


def files_of_metric(name: str) -> list[Path]:
    """Return the local script that Hugging Face's `evaluate` runs for a metric; else no file."""
    path = Path(name)
    script = path if path.suffix == ".py" else path / f"{path.name}.py"
    return [script.resolve()] if is_file(script) else []


def _of_functions(names: Sequence[str], path: Path) -> Iterator[Path]:
    """Yield the files of functions that a YAML file names, and the YAML file."""
    for module in (name.rpartition(".")[0] for name in names):
        places = (module.replace(".", "/"), module)  # by the version of lm-eval
        beside = [path.parent / f"{place}.py" for place in places]
        yield from (path, *(list(filter(is_file, beside)) or files_of_module(module)))


def _of_keys(mappings: Sequence[Mapping[Any, Any]], path: Path) -> Iterator[Path]:
    """Yield the scripts that keys of a YAML file name, and the YAML file if they run any code."""
    for keys in mappings:
        metric, place = keys.get("metric"), keys.get("dataset_path")
        if place == _PICKLED:
            raise ConfigError(
                f"{path}: `dataset_path` is {_PICKLED!r}, which reads pickles, and a pickle can "
                "run code when it is read; store the documents as JSON or Parquet."
            )
        scripts = [file for name in _texts([metric, place]) for file in files_of_metric(name)]
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


def _read(file: Path) -> tuple[list[str], Any]:
    """Return what stands behind `!function` in a YAML file, and the content, if it is valid.

    Functions are taken from the nodes, since lm-eval calls for them while it makes the content: for
    those in keys too, and for those before what is not valid.

    Raises:
        ConfigError: it makes Python objects, or has aliases that lm-eval would expand to a lot.
    """
    functions: list[str] = []
    try:
        loader = _Loader(file.read_bytes())
        if (root := loader.get_single_node()) is not None:
            check_aliases(root)
            functions += _functions(root)
            return functions, loader.construct_document(root)
    except RefusedError as found:
        raise ConfigError(f"{file}, line {found.line}: {found}.") from None
    except Exception:  # YAML raises anything for values of another type than their tag says
        pass
    return functions, None


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
    """Yield a value and all values inside of it."""
    yield value
    inside = value.values() if isinstance(value, Mapping) else value
    for item in inside if isinstance(value, (Mapping, list)) else ():
        yield from _values(item)
