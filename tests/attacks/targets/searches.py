"""Search files: ours, and the frozen one of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

from attacks.targets.target import Read, Target, near_json
from mutations import damaged, value_or_error, yaml_files

from evomerge.config.schema import load
from evomerge.run import folder as run_folder
from evomerge.run.folder import CONFIG, JOURNAL, MANIFEST, RunFolder
from evomerge.trust.task_files import code_of_tasks

SEARCH: dict[str, Any] = {
    "seed": 1,
    "parents": ["zoo:language", "zoo:maths"],
    "base": "zoo:base",
    "dtype": "float32",
    "tokenizer": "base",
    "space": {
        "kind": "parameters",
        "method": ["ties", "dare_ties"],
        "groups": 2,
        "components": ["attention"],
        "knobs": {"weight": [0.0, 2.0], "density": 0.5},
    },
    "optimizer": {"name": "cma", "population": "auto"},
    "objectives": [{"task": "zoo_maths", "metric": "exact_match", "weight": 1.0}],
    "evaluation": {
        "include": ["zoo:tasks"],
        "search": {"documents": 24, "task_split": {"zoo_maths": "test"}},
        "validation": {"documents": 16, "finalists": 2, "tasks": {"zoo_maths": "other"}},
        "racing": {"enabled": False},
        "device_map": "auto",
        "max_memory": {"0": "20GB"},
    },
    "budget": {"candidates": 22, "hours": 1.5},
    "executor": {"kind": "inline"},
}
KEPT: dict[str, Any] = {
    "config": {
        "seed": 1,
        "parents": ["zoo:language"],
        "objectives": [{"task": "zoo_maths", "metric": "exact_match"}],
    },
    "versions": {"torch": "2.9"},
    "parents": {"zoo:language": "ab" * 32},
    "documents": {
        "search": {"zoo_maths": [0, 3]},
        "validation": {"zoo_maths": [1]},
        "test": {"zoo_maths": [2]},
    },
    "sources": {"search": {"zoo_maths": "zoo_maths/test"}},
    "datasets": {"test": {"zoo_maths": {"id": "org/sums", "config": "en", "split": "test"}}},
    "lower_is_better": ["zoo_maths/exact_match"],
    "genes": ["weight/0"],
    "digest": "any",
}
TASK: dict[str, Any] = {
    "task": "own",
    "group": "several",
    "include": "task.yaml",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "own.jsonl"}},
    "test_split": "test",
    "process_docs": "functions.answer",
    "output_type": "generate_until",
    "doc_to_text": "{{ q }}",
    "doc_to_target": "a",
    "generation_kwargs": {"until": ["b"], "max_gen_toks": 1},
    "filter_list": [{"name": "first", "filter": [{"function": "take_first"}]}],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean"}],
}


def search_files(folder: Path) -> Read:
    """A search file."""

    def read(data: bytes) -> Any:
        (folder / "search.yaml").write_bytes(data)
        return load(folder / "search.yaml")

    return read


def any_digest() -> Any:
    """Let a run have any search file and manifest, of which its digest would refuse all but one."""
    return patch.object(run_folder, "_digest", lambda _: "any")


def manifests(folder: Path) -> Read:
    """The manifest of a run."""
    (folder / JOURNAL).touch()
    (folder / CONFIG).write_text("{}")

    def read(data: bytes) -> Any:
        (folder / MANIFEST).write_bytes(data)
        with any_digest():
            config = RunFolder(folder).search_file()
        return config.run_objectives, config.run_documents

    return read


def overrides(folder: Path) -> Read:
    """A value given with `--set`, at many keys of a valid file."""
    file = folder / "good.yaml"
    file.write_text(json.dumps(SEARCH))

    def read(data: bytes) -> Any:
        value = data.decode("utf-8", "surrogateescape")
        for key in ("seed", "space.knobs.weight", "objectives.0.task", "parents.1", "evaluation"):
            value_or_error(lambda key=key: load(file, [f"{key}={value}"]))
        return (value,)

    return read


def task_files(folder: Path) -> Read:
    """A task of lm-eval, of which the files with code are found before it is loaded."""
    (folder / "functions.py").write_text("def answer(doc):\n    return doc['a']\n")

    def read(data: bytes) -> Any:
        file = folder / "task.yaml"
        file.write_bytes(data)
        return code_of_tasks([folder])

    return read


def _target(reader: Any, valid: Any) -> Target:
    file = json.dumps(valid).encode()
    return Target((file,), yaml_files(valid) | damaged(file), reader)


SEARCHES = {
    "task": _target(task_files, TASK),
    "search": _target(search_files, SEARCH),
    "manifest": near_json(manifests, KEPT),
    "override": Target((b"1",), yaml_files([0.0, {"a": "b"}]), overrides),
}
