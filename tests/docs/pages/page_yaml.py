"""The YAML of the documentation: what a block is, by its keys, and how a test checks it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import page_commands
import yaml
from page_stand_ins import MERGE, SEARCH, make_what_is_used

from evomerge.config.schema import SearchConfig, parse
from evomerge.mergekit import reading as mergekit
from evomerge.mergekit.into_search import search_parts


class _Loader(yaml.SafeLoader):
    """Takes `!function` and other tags as text."""


_Loader.add_multi_constructor("!", lambda loader, tag, node: f"!{tag} {node.value}")


def check(text: str, path: Path, shown: bool) -> None:
    """Write a block into a file, and check what it is; a part is merged into what the file has.

    `shown`: whether the page names the file.
    """
    data = yaml.load(text, _Loader)
    assert isinstance(data, Mapping), "is not a mapping of keys"
    for about, is_this, check_it in KINDS:
        if is_this(data):
            try:
                check_it(data, text, path, shown)
            except Exception as error:
                raise AssertionError(f"as {about}: {error}") from error
            return
    raise AssertionError(
        f"unknown YAML with the keys {list(data)}; say in page_yaml.py how it is checked"
    )


def _search_file(data: Any, text: str, path: Path, shown: bool) -> None:
    """A search file that the page does not name is `search.yaml`."""
    path = path if shown else Path("search.yaml")
    make_what_is_used(text)
    path.write_text(text)
    page_commands.evomerge(["validate", str(path), "--trust-code"])


def _part_of_a_search_file(data: Any, text: str, path: Path, shown: bool) -> None:
    """Where another machine or vLLM is needed, only the keys and values are checked."""
    whole = yaml.safe_load(path.read_text()) if path.exists() else SEARCH
    parsed = parse(merged(whole, data), "the block")
    if shown or not ("executor" in data or parsed.evaluation.backend == "vllm"):
        path.write_text(yaml.safe_dump(merged(whole, data), sort_keys=False))
        page_commands.evomerge(["validate", str(path), "--trust-code"])


def _merge(data: Any, text: str, path: Path, shown: bool) -> None:
    path.write_text(text)
    parents = _read_without_doubts(text).parents if "layers" not in data else ()
    if all(name.startswith("zoo:") or Path(name).is_dir() for name in parents):
        page_commands.evomerge(["merge", str(path), "--out", f"{path}.model"])


def _evolve(data: Any, text: str, path: Path, shown: bool) -> None:
    """A config of mergekit-evolve; the page's commands draft a search from it."""
    path.write_text(text)
    search_parts(text, str(path))


def _part_of_a_mergekit_file(data: Any, text: str, path: Path, shown: bool) -> None:
    whole = yaml.safe_load(path.read_text()) if path.exists() else MERGE
    _read_without_doubts(yaml.safe_dump(merged(whole, data)))


def _read_without_doubts(text: str) -> mergekit.MergekitFile:
    doubts: list[str] = []
    found = mergekit.read(text, doubts)
    assert not doubts, doubts
    return found


def _task(data: Any, text: str, path: Path, shown: bool) -> None:
    from lm_eval.api.task import TaskConfig

    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    if "group" not in data:
        TaskConfig(**{key: value for key, value in data.items() if key != "include"})


def merged(whole: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with the values of a part in place of its own."""
    return {**whole} | {
        key: merged(whole[key], value)
        if isinstance(value, Mapping) and isinstance(whole.get(key), Mapping)
        else value
        for key, value in part.items()
    }


def _is_task(data: Mapping[str, Any]) -> bool:
    return isinstance(data.get("task"), (str, list)) and bool(
        {"group", "include", "output_type", "doc_to_text", "dataset_path"} & set(data)
    )


KINDS: list[
    tuple[str, Callable[[Mapping[str, Any]], bool], Callable[[Any, str, Path, bool], None]]
] = [
    ("a search file", lambda data: {"parents", "space"} <= {*data}, _search_file),
    ("a search file", lambda data: {"parents", "objectives"} <= {*data}, _search_file),
    (
        "a part of a search file",
        lambda data: (
            {*data} <= {*SearchConfig.model_fields}
            and not isinstance(data.get("tokenizer"), Mapping)
        ),
        _part_of_a_search_file,
    ),
    ("a recipe", lambda data: {"host", "layers"} <= {*data}, _merge),
    ("a task of lm-eval", _is_task, _task),
    (
        "a mergekit file",
        lambda data: "merge_method" in data or "slices" in data or "modules" in data,
        _merge,
    ),
    ("a config of mergekit-evolve", lambda data: "genome" in data, _evolve),
    (
        "a part of a mergekit file",
        lambda data: {*data} <= {"models", "parameters", "tokenizer", "tokenizer_source", "dtype"},
        _part_of_a_mergekit_file,
    ),
]
"""What a block is, how this is seen, and what is done with it; the first that fits."""
