"""Digests of what a task's scores depend on, besides the model: documents, prompts, settings."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from evomerge.evaluation.inference.rows import spread
from evomerge.evaluation.tasks.scoring import Instance

RENDERED = 200  # documents of a split whose prompts are built; of the others, the fields count
EXAMPLES = 10_000  # documents for few-shot examples whose fields count, at most

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SETTINGS = (
    *("output_type", "generation_kwargs", "num_fewshot", "repeats", "description"),
    *("target_delimiter", "fewshot_delimiter", "filter_list", "metric_list", "process_results"),
)
_TEMPLATES = (
    *("doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix", "use_prompt"),
    "fewshot_config",
)


def task_digests(
    task: Any, ids: Sequence[int], requests: Sequence[Sequence[Instance]]
) -> dict[str, str]:
    """Return digests of some documents of an lm-eval task, each with 16 hexadecimal digits.

    - `documents`: all fields of the documents;
    - `prompts`: prompts, choices and targets as they are rendered;
    - `settings`: how texts are generated and how answers are scored;
    - `templates`: what prompts and targets are made from, also of documents that nobody has built;
    - `examples`, if there are some: the number of the documents for few-shot examples, and all
      fields of at most `EXAMPLES` of them.

    `requests` are those of each document of `spread(ids, RENDERED)`.
    """
    documents = task.eval_docs  # kept, since lm-eval creates them again at each access
    digests = {
        "documents": _digest(dict(documents[document]) for document in ids),
        "prompts": _digest((_texts(items), task.doc_to_target(items[0].doc)) for items in requests),
        "settings": _digest((name, task.get_config(name)) for name in _SETTINGS),
        "templates": _digest((name, _fields(task.get_config(name))) for name in _TEMPLATES),
    }
    if task.get_config("num_fewshot"):
        examples = task.fewshot_docs()
        examples = examples if hasattr(examples, "__len__") else list(examples)
        chosen = spread(range(len(examples)), EXAMPLES)
        digests["examples"] = _digest([len(examples), *(dict(examples[place]) for place in chosen)])
    return digests


def _texts(requests: Sequence[Instance]) -> list[list[str]]:
    return [[it.request_type, *(arg for arg in it.args if isinstance(arg, str))] for it in requests]


def _fields(value: Any) -> Any:
    """Return the fields that are set of an object with settings; any other value as it is."""
    fields = vars(value) if is_dataclass(value) else value
    if not isinstance(fields, Mapping):
        return fields
    return {key: item for key, item in fields.items() if item is not None}


def _digest(items: Iterable[Any]) -> str:
    total = hashlib.sha256()
    for item in items:
        total.update(json.dumps(item, sort_keys=True, default=stable_text).encode() + b"\n")
    return total.hexdigest()[:16]


def stable_text(value: Any) -> str:
    """Return a text for a value that JSON has no form for, the same in every process.

    That of a function is its source, since functions of a task are files of a person.
    """
    if isinstance(value, (set, frozenset)):
        return " ".join(sorted(map(str, value)))
    if hasattr(value, "getbands"):  # an image of Pillow
        return f"{value.size} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if not callable(value):
        text = str(value)
        return type(value).__qualname__ if _ADDRESS.search(text) else text
    name = f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if name.startswith("lm_eval.api."):
        return name
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):  # it has no file, or is an object that can be called
        return name
