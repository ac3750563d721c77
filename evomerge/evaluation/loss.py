"""The loss that gradients are taken of: the negative log-likelihood of reference answers, in nats.

A document of a task with choices gives the cross-entropy of the right choice among all choices,
normalised as its metric does. Every other document gives the negative log-likelihood of its text:
of the reference answer where the model generates answers, of the scored text otherwise.

Whether a blank or line break comes before a generated answer, and what ends it, differs between
models, and the loss depends on it a lot. So several forms are tried on the parents, and the most
likely one is taken (`choose_form`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import CandidateError
from evomerge.evaluation.evaluator import Documents, Evaluator
from evomerge.evaluation.inference.forward import Forward
from evomerge.evaluation.inference.likelihood import Batch, target_scores
from evomerge.evaluation.inference.reference import Request
from evomerge.evaluation.inference.rows import Continuation, Form, separate
from evomerge.evaluation.tasks.harness import Harness
from evomerge.scores import Split

FORMS = (Form(True, "token"), Form(False, "token"), Form(True, "stop"), Form(False, "stop"))
"""The forms that are tried."""


@dataclass(frozen=True)
class Reference:
    """What the loss of one document is computed of.

    Attributes:
        continuations: the reference answer after its prompt, or each choice.
        right: the place of the right choice; None if there are no choices.
        lengths: for each choice, the number by which its log-likelihood is divided.
    """

    continuations: tuple[Continuation, ...]
    right: int | None = None
    lengths: tuple[float, ...] = ()


class Loss:
    """The loss of models on the documents of a split.

    Call `Evaluator.prepare` first. A model may be any of the architecture that it was called with.

    Args:
        evaluator: has the tasks and their documents.
        metrics: task -> key of the metric that it is searched for.
        split: the documents that may be used.
        form: how generated answers are written; `choose_form` finds one.

    Raises:
        ConfigError: a task has no reference answers.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        metrics: Mapping[str, str],
        split: Split = "search",
        form: Form = Form(),
    ) -> None:
        self.evaluator, self.metrics, self.split, self.form = evaluator, metrics, split, form
        self._references: dict[tuple[str, int, Form], Reference] = {}

    def backward(self, model: Any, documents: Documents) -> float:
        """Return the mean over tasks of the mean loss of a document; add its gradient.

        Memory is that of one batch. The gradient is left where `Tensor.backward` leaves it.

        Raises:
            CandidateError: the loss is not finite.
        """
        total = 0.0
        for loss in self._parts(model, documents):
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return _finite(total)

    def __call__(self, model: Any, documents: Documents) -> float:
        """Return the mean over tasks of the mean loss of a document; raises as `backward`."""
        with torch.inference_mode():
            return _finite(sum(float(loss) for loss in self._parts(model, documents)))

    def choose_form(self, models: Iterable[Any], documents: Documents) -> Form:
        """Return the form in which some model finds the reference answers most likely.

        Args:
            models: the parents and the base, one after the other.
        """
        found: dict[Form, float] = {}
        for model in models:
            for form in FORMS:
                value = math.inf
                with contextlib.suppress(CandidateError):
                    value = Loss(self.evaluator, self.metrics, self.split, form)(model, documents)
                found[form] = min(value, found.get(form, value))
        return min(found, key=lambda form: found[form])

    @property
    def _forward(self) -> Forward:
        assert self.evaluator.batched is not None
        return self.evaluator.batched

    def _parts(self, model: Any, documents: Documents) -> Iterator[Tensor]:
        """Yield the shares of the loss, one for each batch."""
        for task, ids in documents.items():
            references = [self._reference(task, document) for document in ids]
            sizes = [sum(len(c.tokens) for c in each.continuations) for each in references]
            for group in self._forward.batching.cut(sizes):
                chosen = [references[place] for place in group]
                yield _summed(model, chosen, self._forward.pad) / (len(ids) * len(documents))

    def _reference(self, task: str, document: int) -> Reference:
        key = task, document, self.form
        if key not in self._references:
            self._references[key] = self._made(task, document)
        return self._references[key]

    def _made(self, task: str, document: int) -> Reference:
        requests = self.evaluator.requests(self.split, task)[document]
        harness = self.evaluator.tasks_of(self.split).harness
        assert harness is not None
        first = requests[0]
        if first.kind != "generate_until":
            continuations = tuple(c for request in requests for c in request.continuations)
            if len(requests) == 1:
                return Reference(continuations)
            right = harness.right_choice(task, first.instance.doc)
            texts = [str(request.instance.args[1]) for request in requests]
            is_normalised = self.metrics.get(task, "").startswith("acc_norm")
            lengths = tuple(float(len(text.strip()) if is_normalised else 1) for text in texts)
            return Reference(continuations, right, lengths)
        text, ended = self._text(harness, task, first)
        return Reference((self._forward.reference.answered(first, text, ended=ended),))

    def _text(self, harness: Harness, task: str, request: Request) -> tuple[str, bool]:
        """Return the reference answer as text, and whether the end token follows."""
        text, delimiter = harness.reference_answer(task, request.instance.doc)
        text = (delimiter if self.form.delimiter else "") + text
        if self.form.end == "stop":
            until = request.instance.args[1].get("until") or ["\n\n"]
            return text + (until if isinstance(until, str) else until[0]), False
        return text, self.form.end == "token"


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise CandidateError("The loss is not a finite number.")
    return loss


def _summed(model: Any, references: Sequence[Reference], pad: int) -> Tensor:
    """Return the sum of the losses of some documents."""
    every = [c for each in references for c in each.continuations]
    rows = separate(every, range(len(every)))
    batch = Batch.of(rows, pad, model.device)
    scores = target_scores(model, batch)
    by_index = scores[torch.tensor(batch.indices).argsort().to(scores.device)]
    total, start = scores.new_zeros(()), 0
    for each in references:
        own = by_index[start : start + len(each.continuations)]
        start += len(each.continuations)
        if each.right is None:
            total = total - own.sum()
        else:
            total = total - torch.log_softmax(own / own.new_tensor(each.lengths), 0)[each.right]
    return total
