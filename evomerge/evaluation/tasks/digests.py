"""Digests of what a task's scores depend on, besides the model: documents, prompts, settings."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from evomerge.evaluation.tasks.scoring import Instance

RENDERED = 200
"""Documents of a split whose prompts are built for the digest; of the others, the fields count."""

EXAMPLES = 10_000
"""Largest number of documents for few-shot examples whose fields count."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SETTINGS = (
    "output_type",
    "generation_kwargs",
    "num_fewshot",
    "repeats",
    "description",
    "target_delimiter",
    "fewshot_delimiter",
    "filter_list",
    "metric_list",
    "process_results",
)
_TEMPLATES = (
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "gen_prefix",
    "use_prompt",
    "fewshot_config",
)


def spread(ids: Sequence[int], most: int = RENDERED) -> list[int]:
    """Return at most `most` of some document ids, evenly spread, the first and the last too."""
    if len(ids) <= most:
        return list(ids)
    step = (len(ids) - 1) / (most - 1)
    return [ids[round(step * place)] for place in range(most)]


def documents_digest(task: Any, ids: Sequence[int]) -> str:
    """Return a digest of all fields of some documents of an lm-eval task."""
    documents = task.eval_docs  # kept, since lm-eval creates them again at each access
    return _digest(dict(documents[document]) for document in ids)


def prompts_digest(task: Any, requests: Sequence[Sequence[Instance]]) -> str:
    """Return a digest of prompts, choices and targets as they are rendered.

    Args:
        task: the lm-eval task.
        requests: the requests of each document.
    """
    return _digest(
        (
            [
                [instance.request_type, *(item for item in instance.args if isinstance(item, str))]
                for instance in of_document
            ],
            task.doc_to_target(of_document[0].doc),
        )
        for of_document in requests
    )


def settings_digest(task: Any) -> str:
    """Return a digest of how texts are generated and how answers are scored."""
    return _digest((name, task.get_config(name)) for name in _SETTINGS)


def templates_digest(task: Any) -> str:
    """Return a digest of what prompts and targets are made from.

    It also covers documents that a run does not use yet, whose prompts nobody has built.
    """
    return _digest((name, _fields(task.get_config(name))) for name in _TEMPLATES)


def examples_digest(task: Any) -> str | None:
    """Return a digest of the documents for few-shot examples; None: the task shows none.

    Their number counts, and all fields of at most `EXAMPLES` of them.
    """
    if not task.get_config("num_fewshot"):
        return None
    documents = task.fewshot_docs()
    documents = documents if hasattr(documents, "__len__") else list(documents)
    chosen = spread(range(len(documents)), EXAMPLES)
    return _digest([len(documents), *(dict(documents[place]) for place in chosen)])


def _fields(value: Any) -> Any:
    """Return the fields of an object with settings that are set; any other value as it is."""
    fields = vars(value) if is_dataclass(value) else value
    if not isinstance(fields, Mapping):
        return fields
    return {key: item for key, item in fields.items() if item is not None}


def _digest(items: Iterable[Any]) -> str:
    """Return a digest of values, as 16 hexadecimal digits."""
    total = hashlib.sha256()
    for item in items:
        text = json.dumps(item, sort_keys=True, default=_plain)
        total.update(text.encode() + b"\n")
    return total.hexdigest()[:16]


def _plain(value: Any) -> str:
    """Return a text for a value that JSON has no form for, the same in every process.

    That of a function is its source, since functions of a task are files of a person.
    """
    if isinstance(value, (set, frozenset)):
        return " ".join(sorted(map(str, value)))
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
