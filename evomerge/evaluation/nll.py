"""The metric `nll`: the negative log-likelihood of a document's reference answer, in nats.

It is summed over the tokens of the answer, with lm-eval's own prompt. Where the task compares
log-likelihoods itself, it is that of its own request: of the right choice (of several right ones,
the likeliest), or of the scored text. A generated answer can be written in several forms, with or
without the delimiter, ended by the end token or a stop string. For each document that form counts
which the scored model itself finds likeliest: so a score depends on model and document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from evomerge.errors import ConfigError
from evomerge.evaluation.inference.reference import ReferenceLM, Request
from evomerge.evaluation.inference.rows import Form
from evomerge.evaluation.tasks.harness import Harness

FORMS = (Form(True, "token"), Form(False, "token"), Form(True, "stop"), Form(False, "stop"))
"""The forms of a generated answer that are tried."""


def written(
    harness: Harness, task: str, request: Request, form: Form, answer: str | None = None
) -> str:
    """Return the text of the reference answer to a `generate_until` request, in a form.

    `answer` takes the place of the reference answer and its delimiter.

    Raises:
        ConfigError: the document has no reference answer.
    """
    if answer is None:
        answer, delimiter = harness.reference_answer(task, request.instance.doc)
        answer = (delimiter if form.delimiter else "") + answer
    if form.end == "stop":
        until = request.instance.args[1].get("until") or ["\n\n"]
        answer += until if isinstance(until, str) else until[0]
    return answer


def of_reference(
    harness: Harness, reference: ReferenceLM, task: str, documents: Mapping[int, Sequence[Request]]
) -> dict[int, list[Request]]:
    """Return document id -> requests for the log-likelihood of its reference answer.

    They are requests of the document itself; or, if the task generates answers, new ones, one for
    each form.

    Raises:
        ConfigError: a document has no reference answer, or no right choice; or the model is an
            encoder-decoder, whose likelihood of an answer that it would generate is not computed.
    """
    kind = harness.info.tasks[task].kind
    if kind == "generate_until" and reference.is_alone:
        raise ConfigError(
            f"objectives: `nll` of task {task!r} is computed for causal language models, and this "
            "model is an encoder-decoder; take another metric, or another model."
        )
    found: dict[int, list[Request]] = {}
    for document, requests in documents.items():
        first = requests[0]
        if kind == "generate_until":
            texts = ((written(harness, task, first, form), form.end) for form in FORMS)
            forms = (reference.answered(first, text, ended=end == "token") for text, end in texts)
            asked = {"request_type": "loglikelihood", "repeats": 1, "resps": []}
            distinct = dict.fromkeys(forms)
            found[document] = [Request(SimpleNamespace(**asked), (item,)) for item in distinct]
        elif kind == "multiple_choice":
            right = harness.right_choices(task, first.instance.doc)
            found[document] = [requests[place] for place in right]
        else:
            found[document] = [first]
    return found


def nll(requests: Sequence[Request]) -> float:
    """Return the nats of the likeliest of the requests of `of_reference`, from their answers."""
    answers = [request.instance.resps[0] for request in requests]
    return min(-float(item[0] if isinstance(item, tuple) else item) for item in answers)
