"""The text of a document with its right answer: what a model reads when it is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evomerge.errors import ConfigError
from evomerge.evaluation.inference.quiet import quiet


def with_target(task: Any, name: str, requests: Sequence[Any], *, chat: bool) -> tuple[str, str]:
    """Return the prompt of a document and its right answer, as the task feeds them to a model.

    The prompt of a task that scores whole texts is empty.

    Args:
        task: the lm-eval task.
        name: the name that the search gives the task.
        requests: the document's lm-eval instances.
        chat: whether prompts are in a chat template; then nothing is put before an answer.

    Raises:
        ConfigError: the document has no right answer.
    """
    first = requests[0]
    if first.request_type == "loglikelihood_rolling":
        return "", str(first.args[-1])
    with quiet():
        target = task.doc_to_target(first.doc)
        choices = task.doc_to_choice(first.doc) if task.get_config("doc_to_choice") else None
        if choices and getattr(task, "multiple_input", 0):  # the choices are prompts
            target = task.doc_to_text(first.doc)
    if isinstance(target, (list, tuple)) and target:
        target = target[0]
    if first.request_type == "loglikelihood":
        if choices and target in choices:
            target = choices.index(target)
        place = target if choices else 0
        if type(place) is not int or not 0 <= place < len(requests):
            raise _no_answer(name, first.doc_id)
        prompt, answer = requests[place].args
        return str(prompt), str(answer)
    if choices and type(target) is int and 0 <= target < len(choices):
        target = choices[target]
    if target is None or not str(target):
        raise _no_answer(name, first.doc_id)
    before = "" if chat else str(task.get_config("target_delimiter") or "")
    return str(first.args[0]), f"{before}{target}"


def _no_answer(name: str, document: int) -> ConfigError:
    return ConfigError(
        f"Document {document} of task {name!r} has no right answer that a model could read; choose "
        "other tasks with --task."
    )
