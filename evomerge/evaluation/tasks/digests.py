"""The digest of what a task's scores depend on, besides the model: documents, prompts, settings."""

import hashlib
import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from itertools import chain
from typing import Any

from evomerge.evaluation.tasks.scoring import Instance

RENDERED = 200  # documents of a split whose prompts are built; of the others, the fields count

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SETTINGS = (
    *("output_type", "generation_kwargs", "num_fewshot", "repeats", "description"),
    *("target_delimiter", "fewshot_delimiter", "filter_list", "metric_list", "process_results"),
    *("doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix", "use_prompt"),
    "fewshot_config",
)


def task_digest(task: Any, ids: Sequence[int], requests: Sequence[Sequence[Instance]]) -> str:
    """Return the digest of some documents of an lm-eval task, 16 hexadecimal digits.

    It is that of all fields of the documents, of prompts, choices and targets as they are rendered,
    and of the settings by which prompts are made, texts generated and answers scored. `requests`
    are those of each document of `spread(ids, RENDERED)`.
    """
    documents = task.eval_docs  # kept, since lm-eval creates them again at each access
    parts = chain(
        (dict(documents[document]) for document in ids),
        ([task.doc_to_target(of[0].doc), *(it.args for it in of)] for of in requests),
        ((name, task.get_config(name)) for name in _SETTINGS),
    )
    total = hashlib.sha256()
    for part in parts:
        total.update(json.dumps(part, sort_keys=True, default=plain_value).encode() + b"\n")
    return total.hexdigest()[:16]


def plain_value(value: Any) -> Any:
    """Return what stands for a value that JSON has no form for, the same in every process.

    For a function that is its source, since functions of a task are files of a person.
    """
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if hasattr(value, "getbands"):  # an image of Pillow
        return f"{value.size} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if is_dataclass(value) and not isinstance(value, type):  # of lm-eval: settings
        return vars(value)
    if not callable(value):
        text = str(value)
        return type(value).__qualname__ if _ADDRESS.search(text) else text
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):  # it has no file, or is an object that can be called
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
