"""Examples for people: the prompt, answer and target of a scored document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.evaluation.inference.quiet import quiet
from evomerge.evaluation.tasks.templates import templates_in_sandbox
from evomerge.scores import Example

_PROMPT, _ANSWER = 600, 300
"""Characters that are kept: of a prompt the last ones, of an answer and a target the first."""


def example(
    task: Any, name: str, document: int, requests: Sequence[Any], values: Mapping[str, float]
) -> Example:
    """Return one scored document as an example.

    Args:
        task: the lm-eval task.
        name: the name that the search gives the task.
        document: id of the document.
        requests: the document's lm-eval instances, with answers.
        values: metric -> value of this document.
    """
    first = requests[0]
    prompt = str(first.args[0])
    with quiet(), templates_in_sandbox():
        target = task.doc_to_target(first.doc)
        choices = task.doc_to_choice(first.doc) if task.get_config("doc_to_choice") else None
    if first.request_type == "generate_until":
        answer = str(first.resps[0])
        parsed = next(iter(first.filtered_resps.values()), answer)
        if isinstance(parsed, (list, tuple)) and parsed:  # since lm-eval 0.5, one for each repeat
            parsed = parsed[0]
        parsed = str(parsed)
    elif first.request_type == "loglikelihood":
        best = max(requests, key=lambda request: float(request.resps[0][0]))
        answer = parsed = str(best.args[1]).strip()
    else:
        answer = parsed = target = ""
    if choices and isinstance(target, int) and 0 <= target < len(choices):
        target = choices[target]
    return Example(
        task=name,
        document=document,
        prompt=_plain(prompt if len(prompt) <= _PROMPT else "..." + prompt[-_PROMPT:]),
        answer=_plain(_first(answer)),
        parsed=_plain(_first(parsed)),
        target=_plain(_first(str(target))),
        values=dict(values),
    )


def _first(text: str) -> str:
    return text if len(text) <= _ANSWER else text[:_ANSWER] + "..."


def _plain(text: str) -> str:
    """Return the text without lone surrogates, which no file can hold."""
    return text.encode("utf-8", "replace").decode()
