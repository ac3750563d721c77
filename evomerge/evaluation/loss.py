"""The loss that gradients are taken of, in nats: how far a model is from what it shall answer.

A document of a task with choices gives the cross-entropy of the right choice among all choices,
normalised as its metric does. Every other document gives the negative log-likelihood of its text:
of the reference answer where the model generates answers (or of a text that takes its place), of
the scored text otherwise.

Documents that a teacher was shown (`Loss.teach`) give the Kullback-Leibler divergence from the
teacher's distribution to the model's: over the choices, or at each token of the teacher's own
answer, as in DAM (arXiv 2410.08371).

Documents of sentence encoders are compared with each other (`tasks/contrast.py`).

Whether a blank or line break comes before a reference answer, and what ends it, differs between
models, and the loss depends on it a lot. So several forms are tried on the parents, and the most
likely one is taken (`choose_form`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import CandidateError
from evomerge.evaluation.evaluator import Documents, Evaluator
from evomerge.evaluation.inference.backward import checkpointing, needs_checkpointing
from evomerge.evaluation.inference.batches import batching
from evomerge.evaluation.inference.encoding import Plan, Role, encoded, planned
from evomerge.evaluation.inference.forward import Forward
from evomerge.evaluation.inference.likelihood import Batch, target_distributions
from evomerge.evaluation.inference.rows import Continuation, Form, separate
from evomerge.evaluation.nll import FORMS, written
from evomerge.evaluation.tasks.encoders import EncoderObjective
from evomerge.evaluation.tasks.info import TasksInfo
from evomerge.scores import Objective, Split

KEPT = 64
"""Tokens of a teacher's distribution that are kept at a position; the others count as one."""

Answers = Mapping[str, Mapping[int, str]]
"""Task -> document -> the text that takes the place of the reference answer."""


@dataclass(frozen=True)
class Said:
    """What a model says to the continuations of a document.

    Attributes:
        scores: (positions, vocabulary) float32, log-probabilities at all positions of the batch.
        positions: for each continuation, the rows of `scores` that predict its targets.
    """

    scores: Tensor
    positions: Sequence[Tensor]

    @property
    def rows(self) -> Tensor:
        """The log-probabilities at all targets, (targets, vocabulary)."""
        return self.scores[torch.cat(list(self.positions))]

    def sums(self, continuations: Sequence[Continuation]) -> Tensor:
        """Return the log-likelihood of each continuation."""
        return torch.stack(
            [
                self.scores[rows, rows.new_tensor(continuation.targets)].sum()
                for rows, continuation in zip(self.positions, continuations, strict=True)
            ]
        )


@dataclass(frozen=True)
class Reference:
    """What the loss of one document is computed of.

    Attributes:
        continuations: the answer after its prompt, or each choice; for `acc_mutual_info` then each
            choice without a prompt.
        lengths: for each choice, the number by which its log-likelihood is divided; empty if there
            are no choices.
        right: the probability that each choice shall have.
        tokens: (targets, kept) int64, the tokens that a teacher finds most likely at each target of
            the answer; None: the answer's own tokens are wanted.
        likely: (targets, kept + 1) float32, their log-probabilities, and that of all other tokens.
    """

    continuations: tuple[Continuation, ...]
    lengths: tuple[float, ...] = ()
    right: tuple[float, ...] = ()
    tokens: Tensor | None = None
    likely: Tensor | None = None

    def loss(self, said: Said) -> Tensor:
        """Return the loss of a model that says this."""
        if self.tokens is not None:
            assert self.likely is not None
            found = _kept(said.rows, self.tokens)
            return (self.likely.exp() * (self.likely - found)).sum()
        if not self.lengths:
            return -said.sums(self.continuations).sum()
        found = self._choices(said)
        right = found.new_tensor(self.right)
        return (torch.xlogy(right, right) - right * found).sum()

    def as_said(self, said: Said) -> Reference:
        """Return the reference with the distribution of a model, its teacher."""
        if self.lengths:
            return replace(self, right=tuple(self._choices(said).exp().tolist()))
        tokens = said.rows.topk(min(KEPT, said.rows.shape[-1] - 1)).indices
        return replace(self, tokens=tokens, likely=_kept(said.rows, tokens))

    def _choices(self, said: Said) -> Tensor:
        """Return the log-probabilities of the choices, as the metric compares them."""
        sums, count = said.sums(self.continuations), len(self.lengths)
        if len(sums) > count:
            sums = sums[:count] - sums[count:]
        return torch.log_softmax(sums / sums.new_tensor(self.lengths), 0)


def _kept(scores: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities of some tokens, and that of all others together."""
    kept = scores.gather(-1, tokens)
    others = (1 - kept.exp().sum(-1, keepdim=True)).clamp_min(1e-6).log()
    return torch.cat([kept, others], -1)


@dataclass(frozen=True)
class Share:
    """What a task counts in the loss.

    Attributes:
        metric: key of the metric that the task is searched for.
        weight: of the mean loss of its documents.
    """

    metric: str
    weight: float


def shares(objectives: Iterable[Objective], info: TasksInfo) -> dict[str, Share]:
    """Return the share of each task; the tasks of a group divide its weight evenly."""
    found: dict[str, Share] = {}
    for item in objectives:
        leaves = info.leaves(item.task)
        for task in leaves:
            before = found[task].weight if task in found else 0.0
            found[task] = Share(item.metric, before + item.weight / len(leaves))
    return found


class Loss:
    """The loss of models on the documents of a split.

    Call `Evaluator.prepare` first. A model may be any of the architecture that it was called with.

    Args:
        evaluator: has the tasks and their documents.
        objectives: weigh the tasks.
        split: the documents that may be used.
        form: how reference answers are written; `choose_form` finds one.

    Attributes:
        answers: texts that take the place of reference answers.
        weights: what each task counts; empty: as its objectives.
        saves_memory: whether a backward pass keeps only the inputs of layers.

    Raises:
        ConfigError: a task has no reference answers.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        objectives: Iterable[Objective],
        split: Split = "search",
        form: Form = Form(),
    ) -> None:
        self.evaluator, self.split, self.form = evaluator, split, form
        self.answers: Answers = {}
        self.weights: Mapping[str, float] = {}
        self.saves_memory = False
        self._shares = shares(objectives, evaluator.tasks_of(split).info)
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

    def choose_form(self, models: Iterable[Any], documents: Documents) -> Form:
        """Return the form in which some model finds the reference answers most likely.

        The default, without a call of a model, if the documents are those of sentence encoders.

        Args:
            models: the parents and the base, one after the other.
        """
        objectives = self.evaluator.tasks_of(self.split).functions
        documents = {task: ids for task, ids in documents.items() if task not in objectives}
        if not documents:
            return Form()
        found: dict[Form, float] = {}
        before = self.form
        for model in models:
            for self.form in FORMS:
                value = math.inf
                with contextlib.suppress(CandidateError):
                    value = self(model, documents)
                found[self.form] = min(value, found.get(self.form, value))
        self.form = before
        return min(found, key=lambda form: found[form])

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
        weights = self.weights or {task: share.weight for task, share in self._shares.items()}
        total = math.fsum(weights[task] for task in documents)
        for task, ids in documents.items():
            objective = self.evaluator.tasks_of(self.split).functions.get(task)
            if isinstance(objective, EncoderObjective):
                yield from self._encoder_parts(objective, model, ids, weights[task] / total)
                continue
            wanted = [self._reference(task, document) for document in ids]
            weight = weights[task] / total / len(ids)
            for group in self._batches(wanted):
                lengths = [len(c.tokens) for place in group for c in wanted[place].continuations]
                with self._memory_for(model, len(lengths) * max(lengths)):
                    said = zip(group, self._said(model, group, wanted), strict=True)
                    losses = [wanted[place].loss(own) for place, own in said]
                    yield torch.stack(losses).sum() * weight

    def _encoder_parts(
        self, objective: EncoderObjective, model: Any, ids: Sequence[int], weight: float
    ) -> Generator[Tensor]:
        """Yield the shares of an encoder's loss, one for each batch of texts.

        The loss compares texts of several batches, and memory is that of one: the slope by the
        embeddings is found first, and then each batch is encoded once more with it (gradient
        caching, Gao et al. 2021, arXiv 2101.06983).
        """
        limits = batching(model, self.evaluator.batch_size)
        limits = replace(limits, tokens=limits.kept)
        runs: list[tuple[Plan, Tensor]] = []

        def encode(texts: Sequence[str], role: Role) -> Tensor:
            plan = planned(model, self.evaluator.tokenizer, texts, role, limits)
            with torch.no_grad():
                found = torch.cat([encoded(model, plan, batch) for batch in plan.batches])
            runs.append((plan, found.requires_grad_(torch.is_grad_enabled())))
            return found[plan.rows(texts)]

        loss = weight * objective.loss(model, ids, encode)
        if not torch.is_grad_enabled():
            yield loss
            return
        value = loss.detach()
        slopes = torch.autograd.grad(loss, [found for _, found in runs])
        for (plan, _), slope in zip(runs, slopes, strict=True):
            shares = slope.split_with_sizes([len(batch["input_ids"]) for batch in plan.batches])
            for batch, share in zip(plan.batches, shares, strict=True):
                with self._memory_for(model, batch["input_ids"].numel()):
                    part = (encoded(model, plan, batch) * share).sum()
                    yield part - part.detach() + value
                value = torch.zeros_like(value)

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
        key = task, document, self.form, answer
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
            text = written(harness, task, first, self.form, answer)
            return self._asked(task, document, text, ended=self.form.end == "token")
        asked = self._asked(task, document)
        if not asked.lengths:
            return asked
        right = harness.right_choice(task, first.instance.doc)
        return replace(asked, right=tuple(float(n == right) for n in range(len(asked.lengths))))

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
        lengths: tuple[float, ...] = ()
        if len(requests) > 1:
            harness = self.evaluator.tasks_of(self.split).harness
            assert harness is not None
            metric = self._shares[task].metric.partition(",")[0]
            lengths = harness.choice_lengths(task, requests[0].instance.doc, metric)
            if metric != "acc_mutual_info":  # else each choice without a prompt comes after all
                requests = requests[: len(lengths)]
        return Reference(tuple(c for item in requests for c in item.continuations), lengths)


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise CandidateError("The loss is not a finite number.")
    return loss
