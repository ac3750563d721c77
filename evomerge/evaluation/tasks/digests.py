"""Digests of what a task's scores depend on, besides the model: documents, prompts and settings."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from evomerge.evaluation.tasks.scoring import Instance

RENDERED = 200
"""Documents of a split whose prompts are built for the digest; of the others, the fields count."""

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


def spread(ids: Sequence[int]) -> list[int]:
    """Return at most `RENDERED` of some document ids, evenly spread, the first and the last too."""
    if len(ids) <= RENDERED:
        return list(ids)
    step = (len(ids) - 1) / (RENDERED - 1)
    return [ids[round(step * place)] for place in range(RENDERED)]


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
