"""The loss that gradients are taken of, in nats: how far a model is from what it shall answer.

A document of a task with choices gives the cross-entropy of the right choice among all choices
(of several right ones, of all of them together), normalised as its metric does; several objectives
of one task have a loss each, with their own weights. Every other document gives the negative
log-likelihood of its text: of the reference answer where the model generates answers (or of a text
that takes its place), of the scored text otherwise.

Documents that a teacher was shown (`Loss.teach`) give the Kullback-Leibler divergence from the
teacher's distribution to the model's: over the choices, or at each token of the teacher's own
answer, as in DAM (arXiv 2410.08371).

Whether a blank or line break comes before a reference answer, and what ends it, differs between
models and tasks, and the loss depends on it a lot. So several forms are tried on the parents, and
for each task the most likely one is taken (`choose_forms`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import CandidateError
from evomerge.evaluation.evaluator import Documents, Evaluator
from evomerge.evaluation.inference.batches import checkpointing, needs_checkpointing
from evomerge.evaluation.inference.forward import Forward
from evomerge.evaluation.inference.likelihood import Batch, target_distributions
from evomerge.evaluation.inference.rows import ANY, Form, Forms, form_of, separate
from evomerge.evaluation.nll import FORMS, written
from evomerge.evaluation.tasks.info import TasksInfo
from evomerge.evaluation.wanted import Reference, Said
from evomerge.scores import Objective, Split

Answers = Mapping[str, Mapping[int, str]]
"""Task -> document -> the text that takes the place of the reference answer."""


_WITHOUT_PROMPT = "acc_mutual_info"
"""The metric that subtracts the log-likelihood of each choice without a prompt."""


def shares(objectives: Iterable[Objective], info: TasksInfo) -> dict[str, dict[str, float]]:
    """Return what each metric of each task weighs in the loss: task -> metric -> weight."""
    found: dict[str, dict[str, float]] = {}
    for item in info.of_tasks(objectives):
        own, metric = found.setdefault(item.task, {}), item.metric.partition(",")[0]
        own[metric] = own.get(metric, 0.0) + item.weight
    return found


class Loss:
    """The loss of models on the documents of a split.

    Call `Evaluator.prepare` first. A model may be any of the architecture that it was called with.

    Args:
        evaluator: has the tasks and their documents.
        objectives: weigh the tasks and their metrics.
        split: the documents that may be used.
        forms: how reference answers are written; `choose_forms` finds them.

    Attributes:
        answers: texts that take the place of reference answers.
        weights: one for each objective, in place of its own; empty: its own.
        saves_memory: whether a backward pass keeps only the inputs of layers.

    Raises:
        ConfigError: a task has no reference answers.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        objectives: Iterable[Objective],
        split: Split = "search",
        forms: Forms = {},  # noqa: B006
    ) -> None:
        self.evaluator, self.split, self.forms = evaluator, split, forms
        self.answers: Answers = {}
        self.weights: Sequence[float] = ()
        self.saves_memory = False
        self._objectives = list(objectives)
        self._metrics = shares(self._objectives, evaluator.tasks_of(split).info)
        self._references: dict[tuple[str, int, Form, str | None], Reference] = {}
        self._taught: dict[str, dict[int, Reference]] = {}
        self._lessons: dict[str, tuple[str, tuple[int, ...]]] = {}

    def backward(self, model: Any, documents: Documents) -> float:
        """Return the weighted mean over tasks of the mean loss of a document; add its gradient.

        Memory is that of one batch. The gradient is left where `Tensor.backward` leaves it.

        Raises:
            CandidateError: the loss is not finite.
        """
        total = 0.0
        with contextlib.closing(self._parts(model, documents)) as parts:
            for loss in parts:
                loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
        return _finite(total)

    def __call__(self, model: Any, documents: Documents) -> float:
        """Return the weighted mean over tasks of the mean loss; raises as `backward`."""
        with torch.inference_mode():
            return _finite(sum(float(loss) for loss in self._parts(model, documents)))

    def choose_forms(self, models: Iterable[Any], documents: Documents) -> dict[str, Form]:
        """Return for each task the form in which some model finds the answers most likely.

        Args:
            models: the parents and the base, one after the other.
            documents: some of each task; see `without_form`.
        """
        found: dict[str, dict[Form, float]] = {task: {} for task in documents}
        before = self.forms
        for model in models:
            for form in FORMS:
                self.forms = {ANY: form}
                for task, ids in documents.items():
                    value = math.inf
                    with contextlib.suppress(CandidateError):
                        value = self(model, {task: ids})
                    found[task][form] = min(value, found[task].get(form, value))
        self.forms = before
        return {task: min(FORMS, key=values.__getitem__) for task, values in found.items()}

    def without_form(self, documents: Documents) -> dict[str, Sequence[int]]:
        """Return the documents of tasks that generate answers, for which no form is known."""
        known, info = self.forms, self.evaluator.tasks_of(self.split).info
        return {
            task: ids
            for task, ids in documents.items()
            if info.tasks[task].kind == "generate_until" and not known.keys() & {task, ANY}
        }

    def is_taught(self, task: str, teacher: str, documents: Sequence[int]) -> bool:
        """Whether `teach` was called with these arguments, and for this task not with others since.

        Args:
            teacher: a name for the model.
        """
        return self._lessons.get(task) == (teacher, tuple(documents))

    def teach(self, task: str, teacher: str, documents: Sequence[int], model: Any) -> None:
        """Want the distribution of a model on documents of a task, in place of their answers.

        A model that generates answers is first asked for its own ones.

        Args:
            teacher: a name for the model.
        """
        answers: Mapping[int, str] = {}
        if self.evaluator.requests(self.split, task)[documents[0]][0].kind == "generate_until":
            self.evaluator.answer(model, self.split, {task: documents})
            answers = self.evaluator.texts(self.split, task, documents)
        asked = [self._asked(task, document, answers.get(document, "")) for document in documents]
        taught: dict[int, Reference] = {}
        with torch.no_grad():
            for group in self._batches(asked):
                for place, said in zip(group, self._said(model, group, asked), strict=True):
                    taught[documents[place]] = asked[place].as_said(said)
        self._taught[task], self._lessons[task] = taught, (teacher, tuple(documents))

    @property
    def _forward(self) -> Forward:
        assert self.evaluator.batched is not None
        return self.evaluator.batched

    def _batches(self, references: Sequence[Reference]) -> Iterator[Sequence[int]]:
        """Yield the places of references that are run together."""
        sizes = [sum(len(c.tokens) for c in each.continuations) for each in references]
        limits = self._forward.batching
        yield from replace(limits, tokens=limits.kept).cut(sizes)

    def _said(
        self, model: Any, group: Sequence[int], references: Sequence[Reference]
    ) -> Iterator[Said]:
        """Run a batch; yield what the model says to each reference of it."""
        every = [c for place in group for c in references[place].continuations]
        batch = Batch.of(separate(every, range(len(every))), self._forward.pad, model.device)
        scores, positions = target_distributions(model, batch)
        by_index = dict(zip(batch.indices, positions, strict=True))
        rows = iter(by_index[index] for index in range(len(every)))
        for place in group:
            yield Said(scores, [next(rows) for _ in references[place].continuations])

    def _parts(self, model: Any, documents: Documents) -> Generator[Tensor]:
        """Yield the shares of the loss, one for each batch, while its activations are kept."""
        weighed = self._objectives
        if self.weights:
            pairs = zip(weighed, self.weights, strict=True)
            weighed = [replace(item, weight=weight) for item, weight in pairs]
        of_tasks = shares(weighed, self.evaluator.tasks_of(self.split).info)
        total = math.fsum(weight for task in documents for weight in of_tasks[task].values())
        for task, ids in documents.items():
            weights = [weight / total for weight in of_tasks[task].values()]
            wanted = [self._reference(task, document) for document in ids]
            shared = torch.tensor(weights, device=model.device) / len(ids)
            for group in self._batches(wanted):
                lengths = [len(c.tokens) for place in group for c in wanted[place].continuations]
                with self._memory_for(model, len(lengths) * max(lengths)):
                    said = zip(group, self._said(model, group, wanted), strict=True)
                    losses = [(shared * wanted[place].losses(own)).sum() for place, own in said]
                    yield torch.stack(losses).sum()

    def _memory_for(self, model: Any, tokens: int) -> contextlib.AbstractContextManager[None]:
        """Return a context in which a batch of so many tokens fits into memory."""
        if not torch.is_grad_enabled():
            return contextlib.nullcontext()
        if self.saves_memory or needs_checkpointing(model, tokens):
            return checkpointing(model)
        return contextlib.nullcontext()

    def _reference(self, task: str, document: int) -> Reference:
        if task in self._taught:
            return self._taught[task][document]
        answer = self.answers.get(task, {}).get(document)
        key = task, document, form_of(self.forms, task), answer
        if key not in self._references:
            self._references[key] = self._made(task, document, answer)
        return self._references[key]

    def _made(self, task: str, document: int, answer: str | None) -> Reference:
        """Return the reference of a document.

        Args:
            answer: takes the place of the reference answer; None: nothing does.
        """
        first = self.evaluator.requests(self.split, task)[document][0]
        harness = self.evaluator.tasks_of(self.split).harness
        assert harness is not None
        if first.kind == "generate_until":
            form = form_of(self.forms, task)
            text = written(harness, task, first, form, answer)
            return self._asked(task, document, text, ended=form.end == "token")
        asked = self._asked(task, document)
        if not asked.choices:
            return asked
        return replace(asked, right=harness.right_choices(task, first.instance.doc))

    def _asked(
        self, task: str, document: int, answer: str = "", *, ended: bool = True
    ) -> Reference:
        """Return the texts whose log-likelihoods a document's loss needs.

        Args:
            answer: what the model shall generate, for a task that generates answers.
            ended: whether the end token follows the answer.
        """
        requests = self.evaluator.requests(self.split, task)[document]
        if requests[0].kind == "generate_until":
            reference = self._forward.reference
            return Reference((reference.answered(requests[0], answer, ended=ended),))
        count, divisors = 0, list[tuple[float, ...]]()
        if len(requests) > 1:
            harness = self.evaluator.tasks_of(self.split).harness
            assert harness is not None
            document_of, metrics = requests[0].instance.doc, self._metrics[task]
            lengths = {name: harness.choice_lengths(task, document_of, name) for name in metrics}
            count = len(next(iter(lengths.values())))
            if _WITHOUT_PROMPT not in metrics:  # else each choice without a prompt comes after all
                requests = requests[:count]
            for name, own in lengths.items():
                other = -1.0 if name == _WITHOUT_PROMPT else math.inf
                divisors.append((*own, *[other] * (len(requests) - count)))
        continuations = tuple(c for item in requests for c in item.continuations)
        return Reference(continuations, count, tuple(divisors))


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise CandidateError("The loss is not a finite number.")
    return loss
