"""The loss that gradients are taken of, in nats: how far a model is from what it shall answer.

A document with choices gives the cross-entropy of the right choice (of several right ones together)
among all, normalised as its metric does; several objectives of one task have a loss each. Every
other document gives the negative log-likelihood of its text: of the reference answer where the
model generates answers, of the scored text otherwise. With a teacher (`Loss.teach`), it is the
Kullback-Leibler divergence from the teacher's distribution to the model's: over the choices, or at
each token of the teacher's own answer, as in DAM (arXiv 2410.08371).
"""

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from evomerge.errors import CandidateError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.inference.likelihood import Batch, target_distributions
from evomerge.evaluation.inference.rows import (
    ANY,
    Continuation,
    Form,
    Forms,
    checkpointing,
    form_of,
    needs_checkpointing,
    separate,
)
from evomerge.evaluation.lm_eval.objective import LmEval
from evomerge.evaluation.lm_eval.requests import FORMS, written
from evomerge.evaluation.tasks.info import TasksInfo
from evomerge.evaluation.tasks.objective import Documents
from evomerge.scores import Objective

KEPT = 64  # tokens of a teacher's distribution at a position; the others count as one


def shares(objectives: Iterable[Objective], info: TasksInfo) -> dict[str, dict[str, float]]:
    """Return what each metric of each task weighs in the loss: task -> metric -> weight."""
    of_tasks: dict[str, dict[str, float]] = {}
    for item in info.of_tasks(objectives):
        weights, metric = of_tasks.setdefault(item.task, {}), item.metric.partition(",")[0]
        weights[metric] = weights.get(metric, 0.0) + item.weight
    return of_tasks


@dataclass(frozen=True)
class AnswerKey:
    """What the answers of a model are compared with, and what each objective counts.

    Attributes:
        answers: task -> document -> the text that takes the place of the reference answer.
        forms: task -> how its reference answers look.
        weights: one for each objective, in place of its weight; empty: its weight.
    """

    answers: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    forms: Forms = field(default_factory=dict)
    weights: Sequence[float] = ()


class Predictions(NamedTuple):
    """What a model predicts for the continuations of a document.

    `scores` (positions, vocabulary) float32 are log-probabilities at all positions of the batch;
    `positions` are, for each continuation, the rows of `scores` that predict its targets.
    """

    scores: Tensor
    positions: Sequence[Tensor]

    def sums(self, continuations: Sequence[Continuation]) -> Tensor:
        """Return the log-likelihood of each continuation."""
        pairs = zip(self.positions, continuations, strict=True)
        each = [self.scores[rows, rows.new_tensor(item.targets)].sum() for rows, item in pairs]
        return torch.stack(each)


@dataclass(frozen=True)
class Reference:
    """What the loss of one document is computed of.

    Attributes:
        continuations: the answer after its prompt, or each choice.
        divisors: for each metric and choice, the number by which its log-likelihood is divided
            before a choice is taken; empty: there are no choices, and one loss is that of all
            metrics.
        right: the indices of the choices of which one shall be taken.
        likely_choices: for each metric, the probability that a teacher gives each choice, if any.
        likely_tokens: (targets, kept) int64, the tokens that a teacher finds most likely at each
            target, and (targets, kept + 1) float32, their log-probabilities and that of all others;
            None: the answer's own tokens are wanted.
    """

    continuations: tuple[Continuation, ...]
    divisors: tuple[tuple[float, ...], ...] = ()
    right: tuple[int, ...] = ()
    likely_choices: tuple[tuple[float, ...], ...] = ()
    likely_tokens: tuple[Tensor, Tensor] | None = None

    def losses(self, predictions: Predictions) -> Tensor:
        """Return the losses of these predictions, (metrics,); (1,) if there are no choices."""
        if self.likely_tokens is not None:
            tokens, likely = self.likely_tokens
            return (likely.exp() * (likely - _of_tokens(predictions, tokens))).sum().reshape(1)
        if not self.divisors:
            return -predictions.sums(self.continuations).sum().reshape(1)
        scores = self._choices(predictions)
        if not self.likely_choices:
            return -scores[:, list(self.right)].logsumexp(-1)
        likely = scores.new_tensor(self.likely_choices)
        return (torch.xlogy(likely, likely) - likely * scores).sum(-1)

    def of_teacher(self, predictions: Predictions) -> Self:
        """Return the reference with the distribution of a teacher that predicts this."""
        if self.divisors:
            likely = self._choices(predictions).exp().tolist()
            return replace(self, likely_choices=tuple(map(tuple, likely)))
        rows = predictions.scores[torch.cat(list(predictions.positions))]
        tokens = rows.topk(min(KEPT, rows.shape[-1] - 1)).indices
        return replace(self, likely_tokens=(tokens, _of_tokens(predictions, tokens)))

    def _choices(self, predictions: Predictions) -> Tensor:
        """Return the log-probabilities of choices as metrics compare them, (metrics, choices)."""
        sums = predictions.sums(self.continuations)
        return torch.log_softmax(sums / sums.new_tensor(self.divisors), -1)


def _of_tokens(predictions: Predictions, tokens: Tensor) -> Tensor:
    """Return the log-probabilities of some tokens, and that of all others together."""
    kept = predictions.scores[torch.cat(list(predictions.positions))].gather(-1, tokens)
    others = (1 - kept.exp().sum(-1, keepdim=True)).clamp_min(1e-6).log()
    return torch.cat([kept, others], -1)


class Loss:
    """The loss of models on search documents.

    Call `Evaluator.prepare` first. A model may be any of the architecture that it was called with.

    ConfigError: a task has no reference answers.
    """

    def __init__(self, evaluator: Evaluator, objectives: Iterable[Objective]) -> None:
        self.evaluator, self._saves_memory = evaluator, False
        self._objectives = list(objectives)
        every = evaluator.tasks_of("search").objectives
        self._tasks = next(item for item in every if isinstance(item, LmEval))
        self._metrics = shares(self._objectives, self._tasks.info)
        self._references: dict[tuple[str, int, Form, str | None], Reference] = {}
        self._taught: dict[str, tuple[object, dict[int, Reference]]] = {}
        """Task -> the arguments of the last call of `teach`, and what each document teaches."""

    def save_memory(self) -> bool:
        """Keep only the inputs of layers in backward passes; return False if they do already."""
        before, self._saves_memory = self._saves_memory, True
        return not before

    def backward(self, model: Any, documents: Documents, key: AnswerKey = AnswerKey()) -> float:
        """Return the weighted mean over tasks of the mean loss of a document; add its gradient.

        Memory is that of one batch. CandidateError: the loss is not finite.
        """
        total = 0.0
        with contextlib.closing(self._parts(model, documents, key)) as parts:
            for loss in parts:
                loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
        return _finite(total)

    def __call__(self, model: Any, documents: Documents, key: AnswerKey = AnswerKey()) -> float:
        """Return the weighted mean over tasks of the mean loss; raises as `backward`."""
        with torch.inference_mode():
            return _finite(sum(float(loss) for loss in self._parts(model, documents, key)))

    def choose_forms(
        self, models: Iterable[Any], documents: Documents, key: AnswerKey = AnswerKey()
    ) -> dict[str, Form]:
        """Return for each task the form in which some model finds the answers most likely.

        What comes before an answer and ends it decides a lot. Models are made one after the other.
        """
        losses = {task: dict.fromkeys(FORMS, math.inf) for task in documents}
        keys = {form: replace(key, forms={ANY: form}) for form in FORMS}
        for model in models:
            for form, (task, ids) in product(FORMS, documents.items()):
                with contextlib.suppress(CandidateError):
                    loss = self(model, {task: ids}, keys[form])
                    losses[task][form] = min(loss, losses[task][form])
        return {task: min(FORMS, key=of_form.__getitem__) for task, of_form in losses.items()}

    def without_form(self, documents: Documents, forms: Forms) -> dict[str, Sequence[int]]:
        """Return the documents of tasks that generate answers, for which no form is known."""
        return {
            task: ids
            for task, ids in documents.items()
            if self._tasks.info.tasks[task].kind == "generate_until"
            and not forms.keys() & {task, ANY}
        }

    def teach(
        self, task: str, teacher: str, documents: Sequence[int], make: Callable[[], Any]
    ) -> None:
        """Want the distribution of the model that `make` returns, in place of answers.

        If it generates answers, it is first asked for its own ones. `teacher` is its name: a second
        call with the same arguments does nothing.
        """
        key = teacher, tuple(documents)
        if task in self._taught and self._taught[task][0] == key:
            return
        model = make()
        answers: dict[int, str] = {}
        if self._tasks.requests.get(task, documents[0])[0].kind == "generate_until":
            self.evaluator.answer(model, "search", {task: documents})
            answers = self._tasks.texts(task, documents)
        plain = [self._continued(task, number, answers.get(number, "")) for number in documents]
        references: dict[int, Reference] = {}
        with torch.no_grad():
            for group in self._batches(plain):
                for i, predictions in self._predict(model, group, plain):
                    references[documents[i]] = plain[i].of_teacher(predictions)
        self._taught[task] = key, references

    def _batches(self, references: Sequence[Reference]) -> Iterator[Sequence[int]]:
        """Yield the indices of references that are run together: activations are kept, so half."""
        sizes = [sum(len(c.tokens) for c in each.continuations) for each in references]
        limits = self._tasks.runner.batched.batching
        yield from replace(limits, tokens=limits.tokens // 2).cut(sizes)

    def _predict(
        self, model: Any, group: Sequence[int], references: Sequence[Reference]
    ) -> Iterator[tuple[int, Predictions]]:
        """Run a batch; yield the index of each reference and what the model predicts for it."""
        every = [c for i in group for c in references[i].continuations]
        inputs, pad = separate(every, range(len(every))), self._tasks.runner.batched.pad
        batch = Batch.of(inputs, pad, model.device)
        scores, positions = target_distributions(model, batch)
        of_index = dict(zip(batch.indices, positions, strict=True))
        rows = iter(of_index[index] for index in range(len(every)))
        for i in group:
            yield i, Predictions(scores, [next(rows) for _ in references[i].continuations])

    def _parts(self, model: Any, documents: Documents, key: AnswerKey) -> Generator[Tensor]:
        """Yield the shares of the loss, one for each batch, while its activations are kept."""
        weights = key.weights or [item.weight for item in self._objectives]
        pairs = zip(self._objectives, weights, strict=True)
        of_tasks = shares((replace(it, weight=weight) for it, weight in pairs), self._tasks.info)
        total = math.fsum(weight for task in documents for weight in of_tasks[task].values())
        for task, ids in documents.items():
            of_metrics = [weight / total for weight in of_tasks[task].values()]
            factors = torch.tensor(of_metrics, device=model.device) / len(ids)
            references = [self._reference(task, document, key) for document in ids]
            for group in self._batches(references):
                lengths = [len(c.tokens) for i in group for c in references[i].continuations]
                spare = torch.is_grad_enabled() and (
                    self._saves_memory or needs_checkpointing(model, len(lengths) * max(lengths))
                )
                with checkpointing(model) if spare else contextlib.nullcontext():
                    each = self._predict(model, group, references)
                    losses = [(factors * references[i].losses(it)).sum() for i, it in each]
                    yield torch.stack(losses).sum()

    def _reference(self, task: str, document: int, key: AnswerKey) -> Reference:
        if task in self._taught:
            return self._taught[task][1][document]
        answer, form = key.answers.get(task, {}).get(document), form_of(key.forms, task)
        name = task, document, form, answer
        if name not in self._references:
            first, harness = self._tasks.requests.get(task, document)[0], self._tasks.harness
            if first.kind == "generate_until":
                text = written(harness, task, first, form, answer)
                reference = self._continued(task, document, text, ended=form.end == "token")
            elif (reference := self._continued(task, document)).divisors:
                right = harness.right_choices(task, first.instance.doc)
                reference = replace(reference, right=right)
            self._references[name] = reference
        return self._references[name]

    def _continued(
        self, task: str, document: int, answer: str = "", *, ended: bool = True
    ) -> Reference:
        """Return the texts whose log-likelihoods a document's loss needs.

        For a task that generates answers, the model shall generate `answer`, and the end token
        behind it if it is `ended`.
        """
        requests = self._tasks.requests.get(task, document)
        if requests[0].kind == "generate_until":
            reference = self._tasks.runner.batched.reference
            return Reference((reference.answered(requests[0], answer, ended=ended),))
        divisors = list[tuple[float, ...]]()
        if len(requests) > 1:
            lengths, content = self._tasks.harness.choice_lengths, requests[0].instance.doc
            divisors = [lengths(task, content, metric) for metric in self._metrics[task]]
            # Choices without a prompt, for `acc_mutual_info`, come last; its loss is that of `acc`.
            requests = requests[: len(divisors[0])]
        continuations = tuple(c for item in requests for c in item.continuations)
        return Reference(continuations, tuple(divisors))


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise CandidateError("The loss is not a finite number.")
    return loss
