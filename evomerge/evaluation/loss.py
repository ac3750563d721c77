"""The loss that gradients are taken of, in nats: how far a model is from what it shall answer.

A document of a task with choices gives the cross-entropy of the right choice among all choices
(of several right ones, of all of them together), normalised as its metric does; several objectives
of one task have a loss each. Every other document gives the negative log-likelihood of its text:
of the reference answer where the model generates answers, of the scored text otherwise.

Documents that a teacher was shown (`Loss.teach`) give the Kullback-Leibler divergence from the
teacher's distribution to the model's: over the choices, or at each token of the teacher's own
answer, as in DAM (arXiv 2410.08371).

The loss depends a lot on whether a blank or line break comes before a reference answer, and on what
ends it. So `choose_forms` takes for each task the most likely form of those tried on the parents.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evomerge.errors import CandidateError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.inference.batches import checkpointing, needs_checkpointing
from evomerge.evaluation.inference.likelihood import Batch, target_distributions
from evomerge.evaluation.inference.rows import ANY, Continuation, Form, Forms, form_of, separate
from evomerge.evaluation.tasks.info import TasksInfo
from evomerge.evaluation.tasks.lm_eval import FORMS, LmEval, written
from evomerge.evaluation.tasks.objective import Documents
from evomerge.scores import Objective, Split

KEPT = 64  # tokens of a teacher's distribution at a position; the others count as one
_WITHOUT_PROMPT = "acc_mutual_info"  # it subtracts the likelihood of a choice without a prompt


def shares(objectives: Iterable[Objective], info: TasksInfo) -> dict[str, dict[str, float]]:
    """Return what each metric of each task weighs in the loss: task -> metric -> weight."""
    found: dict[str, dict[str, float]] = {}
    for item in info.of_tasks(objectives):
        own, metric = found.setdefault(item.task, {}), item.metric.partition(",")[0]
        own[metric] = own.get(metric, 0.0) + item.weight
    return found


class Said(NamedTuple):
    """What a model says to the continuations of a document.

    `scores` (positions, vocabulary) float32 are log-probabilities at all positions of the batch;
    `positions` are, for each continuation, the rows of `scores` that predict its targets.
    """

    scores: Tensor
    positions: Sequence[Tensor]

    @property
    def rows(self) -> Tensor:
        """The log-probabilities at all targets, (targets, vocabulary)."""
        return self.scores[torch.cat(list(self.positions))]

    def sums(self, continuations: Sequence[Continuation]) -> Tensor:
        """Return the log-likelihood of each continuation."""
        pairs = zip(self.positions, continuations, strict=True)
        each = [self.scores[rows, rows.new_tensor(item.targets)].sum() for rows, item in pairs]
        return torch.stack(each)


@dataclass(frozen=True)
class Reference:
    """What the loss of one document is computed of.

    Attributes:
        continuations: the answer after its prompt, or each choice; for `acc_mutual_info` then each
            choice without a prompt.
        choices: number of choices; 0: there are none, so one loss is that of all metrics.
        divisors: for each metric and continuation, the number by which its log-likelihood is
            divided before a choice is taken: -1 where it is subtracted, infinite where it does not
            count.
        right: the places of the choices of which one shall be taken.
        likely_choices: for each metric, the probability that a teacher gives each choice, if any.
        tokens: (targets, kept) int64, the tokens that a teacher finds most likely at each target of
            the answer; None: the answer's own tokens are wanted.
        likely: (targets, kept + 1) float32, their log-probabilities, and that of all other tokens.
    """

    continuations: tuple[Continuation, ...]
    choices: int = 0
    divisors: tuple[tuple[float, ...], ...] = ()
    right: tuple[int, ...] = ()
    likely_choices: tuple[tuple[float, ...], ...] = ()
    tokens: Tensor | None = None
    likely: Tensor | None = None

    def losses(self, said: Said) -> Tensor:
        """Return the losses of a model that says this, (metrics,); (1,) if there are no choices."""
        if self.tokens is not None:
            assert self.likely is not None
            found = _kept(said.rows, self.tokens)
            return (self.likely.exp() * (self.likely - found)).sum().reshape(1)
        if not self.choices:
            return -said.sums(self.continuations).sum().reshape(1)
        found = self._choices(said)
        if not self.likely_choices:
            return -found[:, list(self.right)].logsumexp(-1)
        likely = found.new_tensor(self.likely_choices)
        return (torch.xlogy(likely, likely) - likely * found).sum(-1)

    def taught(self, said: Said) -> Reference:
        """Return the reference with the distribution of a model, its teacher."""
        if self.choices:
            likely = self._choices(said).exp().tolist()
            return replace(self, likely_choices=tuple(map(tuple, likely)))
        tokens = said.rows.topk(min(KEPT, said.rows.shape[-1] - 1)).indices
        return replace(self, tokens=tokens, likely=_kept(said.rows, tokens))

    def _choices(self, said: Said) -> Tensor:
        """Return the log-probabilities of choices as metrics compare them, (metrics, choices)."""
        sums = said.sums(self.continuations)
        scores = (sums / sums.new_tensor(self.divisors)).view(len(self.divisors), -1, self.choices)
        return torch.log_softmax(scores.sum(1), -1)


def _kept(scores: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities of some tokens, and that of all others together."""
    kept = scores.gather(-1, tokens)
    others = (1 - kept.exp().sum(-1, keepdim=True)).clamp_min(1e-6).log()
    return torch.cat([kept, others], -1)


class Loss:
    """The loss of models on the documents of a split, in the forms of `choose_forms`.

    Call `Evaluator.prepare` first. A model may be any of the architecture that it was called with.
    The objectives weigh the tasks and their metrics.

    Attributes:
        answers: task -> document -> the text that takes the place of the reference answer.
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
        self.answers: Mapping[str, Mapping[int, str]] = {}
        self.weights: Sequence[float] = ()
        self.saves_memory = False
        self._objectives = list(objectives)
        every = evaluator.tasks_of(split).objectives
        self._tasks = next(item for item in every if isinstance(item, LmEval))
        self._metrics = shares(self._objectives, self._tasks.info)
        self._references: dict[tuple[str, int, Form, str | None], Reference] = {}
        self._taught: dict[str, dict[int, Reference]] = {}
        self._lessons: dict[str, object] = {}  # the arguments of the last call of `teach`

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

        The models are the parents and the base, one after the other; the documents some of each
        task, see `without_form`.
        """
        found: dict[str, dict[Form, float]] = {t: dict.fromkeys(FORMS, math.inf) for t in documents}
        before = self.forms
        for model in models:
            for form in FORMS:
                self.forms = {ANY: form}
                for task, ids in documents.items():
                    with contextlib.suppress(CandidateError):
                        found[task][form] = min(self(model, {task: ids}), found[task][form])
        self.forms = before
        return {task: min(FORMS, key=values.__getitem__) for task, values in found.items()}

    def without_form(self, documents: Documents) -> dict[str, Sequence[int]]:
        """Return the documents of tasks that generate answers, for which no form is known."""
        known, info = self.forms, self._tasks.info
        return {
            task: ids
            for task, ids in documents.items()
            if info.tasks[task].kind == "generate_until" and not known.keys() & {task, ANY}
        }

    def teach(
        self, task: str, teacher: str, documents: Sequence[int], make: Callable[[], Any]
    ) -> None:
        """Want the distribution of a model on documents of a task, in place of their answers.

        A model that generates answers is first asked for its own ones. `teacher` is a name for the
        model, which `make` returns. If the last call for the task had the same teacher and
        documents, nothing is done.
        """
        lesson = teacher, tuple(documents)
        if self._lessons.get(task) == lesson:
            return
        model = make()
        answers: dict[int, str] = {}
        if self._tasks.requests(task, documents[0])[0].kind == "generate_until":
            self.evaluator.answer(model, self.split, {task: documents})
            answers = self._tasks.texts(task, documents)
        asked = [self._asked(task, document, answers.get(document, "")) for document in documents]
        taught: dict[int, Reference] = {}
        with torch.no_grad():
            for group in self._batches(asked):
                for place, said in zip(group, self._said(model, group, asked), strict=True):
                    taught[documents[place]] = asked[place].taught(said)
        self._taught[task], self._lessons[task] = taught, lesson

    def _batches(self, references: Sequence[Reference]) -> Iterator[Sequence[int]]:
        """Yield the places of references that are run together."""
        sizes = [sum(len(c.tokens) for c in each.continuations) for each in references]
        limits = self._tasks.batched.batching
        yield from replace(limits, tokens=limits.kept).cut(sizes)

    def _said(
        self, model: Any, group: Sequence[int], references: Sequence[Reference]
    ) -> Iterator[Said]:
        """Run a batch; yield what the model says to each reference of it."""
        every = [c for place in group for c in references[place].continuations]
        batch = Batch.of(separate(every, range(len(every))), self._tasks.batched.pad, model.device)
        scores, positions = target_distributions(model, batch)
        by_index = dict(zip(batch.indices, positions, strict=True))
        rows = iter(by_index[index] for index in range(len(every)))
        for place in group:
            yield Said(scores, [next(rows) for _ in references[place].continuations])

    def _parts(self, model: Any, documents: Documents) -> Generator[Tensor]:
        """Yield the shares of the loss, one for each batch, while its activations are kept."""
        items, weights = self._objectives, self.weights or [i.weight for i in self._objectives]
        weighed = (replace(item, weight=own) for item, own in zip(items, weights, strict=True))
        of_tasks = shares(weighed, self._tasks.info)
        total = math.fsum(weight for task in documents for weight in of_tasks[task].values())
        for task, ids in documents.items():
            weights = [weight / total for weight in of_tasks[task].values()]
            wanted = [self._reference(task, document) for document in ids]
            shared = torch.tensor(weights, device=model.device) / len(ids)
            for group in self._batches(wanted):
                lengths = [len(c.tokens) for place in group for c in wanted[place].continuations]
                spare = torch.is_grad_enabled() and (
                    self.saves_memory or needs_checkpointing(model, len(lengths) * max(lengths))
                )
                with checkpointing(model) if spare else contextlib.nullcontext():
                    said = zip(group, self._said(model, group, wanted), strict=True)
                    losses = [(shared * wanted[place].losses(own)).sum() for place, own in said]
                    yield torch.stack(losses).sum()

    def _reference(self, task: str, document: int) -> Reference:
        if task in self._taught:
            return self._taught[task][document]
        answer, form = self.answers.get(task, {}).get(document), form_of(self.forms, task)
        key = task, document, form, answer
        if key not in self._references:
            first = self._tasks.requests(task, document)[0]
            harness = self._tasks.harness
            if first.kind == "generate_until":
                text = written(harness, task, first, form, answer)
                made = self._asked(task, document, text, ended=form.end == "token")
            elif (made := self._asked(task, document)).choices:
                made = replace(made, right=harness.right_choices(task, first.instance.doc))
            self._references[key] = made
        return self._references[key]

    def _asked(
        self, task: str, document: int, answer: str = "", *, ended: bool = True
    ) -> Reference:
        """Return the texts whose log-likelihoods a document's loss needs.

        For a task that generates answers, the model shall generate `answer`, and the end token
        behind it if it is `ended`.
        """
        requests = self._tasks.requests(task, document)
        if requests[0].kind == "generate_until":
            reference = self._tasks.batched.reference
            return Reference((reference.answered(requests[0], answer, ended=ended),))
        count, divisors = 0, list[tuple[float, ...]]()
        if len(requests) > 1:
            harness = self._tasks.harness
            content, metrics = requests[0].instance.doc, self._metrics[task]
            lengths = {name: harness.choice_lengths(task, content, name) for name in metrics}
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
