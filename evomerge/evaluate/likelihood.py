"""Log-likelihoods of continuations, each shared prompt read once, the head on scored tokens only.

The requests of one document become one row: their common prefix, then the rest of each request
as a branch. A branch sees the prefix and itself, by a 4-D attention mask, and its positions go on
from the prefix. Requests that differ in their last (scored, never read) token only are the same
row without branches, and need no mask.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from evomerge.evaluate.generation import cache_argument
from evomerge.evaluate.prefix import Prefix, Prefixes

if TYPE_CHECKING:
    from numpy.typing import NDArray

Answer: TypeAlias = tuple[float, bool]

_LONGEST_PACKED = 2048  # tokens; attention over a packed row costs the square of its length


@dataclass(frozen=True)
class Question:
    """A continuation to be scored after its context.

    Attributes:
        tokens: what the model reads: context and continuation without its last token, cut from
            the left to the model's length.
        targets: the continuation; `targets[-1]` is predicted by the last of `tokens`.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]

    @classmethod
    def of(cls, context: Sequence[int], continuation: Sequence[int], longest: int) -> Question:
        """Return the question as lm-eval's HFLM asks it (`_loglikelihood_tokens`)."""
        whole = [*context, *continuation][-(longest + 1) :]
        return cls(tuple(whole[:-1]), tuple(continuation[-len(whole) + 1 :]))


@dataclass
class Row:
    """What the model reads in one row, and where its answers lie.

    Attributes:
        tokens: the prefix, then the branches one after the other.
        positions: position of each token in its own sequence.
        branch: 0 for the prefix, i for the i-th branch.
        numbers: which questions are answered here.
        places: for each of them, the columns that predict its targets.
        targets: for each of them, the targets.
    """

    tokens: list[int]
    positions: list[int]
    branch: list[int]
    numbers: list[int] = field(default_factory=list)
    places: list[list[int]] = field(default_factory=list)
    targets: list[tuple[int, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)


def pack(questions: Sequence[Question], numbers: Sequence[int]) -> list[Row]:
    """Return the rows that answer the questions of one document together.

    Args:
        numbers: a number for each question, by which its answer is found.
    """
    prefix = _common_prefix([question.tokens for question in questions])
    rows: list[Row] = []
    branches: dict[tuple[int, ...], list[int]] = {}
    for number, question in zip(numbers, questions, strict=True):
        rest = question.tokens[prefix:]
        if not rows or len(rows[-1]) + len(rest) > max(_LONGEST_PACKED, prefix + len(rest)):
            head = list(questions[0].tokens[:prefix])
            rows.append(Row(head, list(range(prefix)), [0] * prefix))
            branches = {}
        row = rows[-1]
        if rest and rest not in branches:
            start = len(row)
            branches[rest] = list(range(start, start + len(rest)))
            row.tokens += rest
            row.positions += range(prefix, prefix + len(rest))
            row.branch += [len(branches)] * len(rest)
        columns = [*range(prefix), *branches.get(rest, ())]
        row.numbers.append(number)
        row.places.append(columns[len(columns) - len(question.targets) :])
        row.targets.append(question.targets)
    return rows


def separate(questions: Sequence[Question], numbers: Sequence[int]) -> list[Row]:
    """Return one row for each question, equal inputs once; right for every architecture."""
    rows: dict[tuple[int, ...], Row] = {}
    for number, question in zip(numbers, questions, strict=True):
        length = len(question.tokens)
        row = rows.setdefault(
            question.tokens, Row(list(question.tokens), list(range(length)), [0] * length)
        )
        row.numbers.append(number)
        row.places.append(list(range(length - len(question.targets), length)))
        row.targets.append(question.targets)
    return list(rows.values())


def _common_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    first, last = min(sequences), max(sequences)
    for index, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return index
    return min(len(first), len(last))


@dataclass
class Batch:
    """Rows as tensors, on the model's device.

    Attributes:
        tokens: (rows, length) int64, padded on the right.
        positions: (rows, length) int64, or None where no row has branches.
        branch: (rows, length) int32, -1 at padding, or None where no row has branches.
        where: (2, scored) int64: row and column of every scored position.
        index: (targets,) int64: which scored position predicts each target.
        targets: (targets,) int64.
        starts: (questions,) where the targets of each question start.
        numbers: numbers of the questions.
        prefix: tokens that stand before every row; columns count behind them.
    """

    tokens: torch.Tensor
    positions: torch.Tensor | None
    branch: torch.Tensor | None
    where: torch.Tensor
    index: torch.Tensor
    targets: torch.Tensor
    starts: NDArray[np.intp]
    numbers: list[int]
    prefix: Prefix = ()

    @classmethod
    def of(cls, rows: Sequence[Row], pad: int, device: torch.device, prefix: Prefix = ()) -> Batch:
        """Lay out rows, which stand behind a prefix."""
        length = max(len(row) for row in rows)
        packed = bool(prefix) or any(row.branch[-1] for row in rows)

        def table(name: str, fill: int) -> torch.Tensor:
            cells = [getattr(row, name) + [fill] * (length - len(row)) for row in rows]
            return torch.tensor(cells, dtype=torch.int64, device=device)

        spots: dict[tuple[int, int], int] = {}
        index: list[int] = []
        targets: list[int] = []
        starts: list[int] = []
        numbers: list[int] = []
        for line, row in enumerate(rows):
            for number, places, wanted in zip(row.numbers, row.places, row.targets, strict=True):
                starts.append(len(targets))
                numbers.append(number)
                targets += wanted
                index += [spots.setdefault((line, place), len(spots)) for place in places]
        return cls(
            tokens=table("tokens", pad),
            positions=table("positions", 0) if packed else None,
            branch=table("branch", -1) if packed else None,
            where=torch.tensor(list(spots), dtype=torch.int64, device=device).T,
            index=torch.tensor(index, dtype=torch.int64, device=device),
            targets=torch.tensor(targets, dtype=torch.int64, device=device),
            starts=np.array(starts, dtype=np.intp),
            numbers=numbers,
            prefix=prefix,
        )


def score(model: Any, batches: Sequence[Batch], count: int, gather: bool = True) -> list[Answer]:
    """Return (log-likelihood, whether greedy decoding would say it) of every question.

    As lm-eval's HFLM: log-softmax in the model's own dtype, summed and rounded to that dtype.

    Args:
        count: number of questions; they are numbered 0 .. count - 1.
        gather: let the head see scored positions only, else cut them out of the full logits.
    """
    totals = np.full(count, np.nan)
    greedy = np.zeros(count, dtype=bool)
    prefixes = Prefixes(model)
    with torch.inference_mode():
        for batch in batches:
            logits = _logits(model, batch, gather, prefixes).to(batch.index.device)
            scores = torch.log_softmax(logits, dim=-1)
            picked = scores[batch.index, batch.targets]
            hit = scores.argmax(dim=-1)[batch.index] == batch.targets
            parts = picked.float().cpu().numpy().astype(np.float64)
            sums = torch.from_numpy(np.add.reduceat(parts, batch.starts)).to(scores.dtype)
            totals[batch.numbers] = sums.double().numpy()
            greedy[batch.numbers] = np.logical_and.reduceat(hit.cpu().numpy(), batch.starts)
    return list(zip(totals.tolist(), greedy.tolist(), strict=True))


def _logits(model: Any, batch: Batch, gather: bool, prefixes: Prefixes) -> torch.Tensor:
    """Return the logits at the scored positions, (scored, vocabulary)."""
    inputs: dict[str, Any] = {"input_ids": batch.tokens, "use_cache": False}
    if batch.prefix:
        inputs[cache_argument(model)] = prefixes.cache(batch.prefix, len(batch.tokens))
    if batch.branch is not None:
        inputs["position_ids"] = batch.positions
        inputs["attention_mask"] = attention_mask(model, batch)
    if not gather:
        return cut(model(**inputs).logits, batch.where)
    with _head_on(model, batch.where):
        logits: torch.Tensor = model(**inputs).logits
    if logits.dim() != 2:
        raise ValueError("the head of this model cannot be fed scored positions only")
    return logits


def cut(states: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return (scored, features) of (rows, length, features)."""
    where = where.to(states.device)
    return states[where[0], where[1]]


@contextlib.contextmanager
def _head_on(model: Any, where: torch.Tensor) -> Iterator[None]:
    """Let the output head see only some positions; what follows it works on those alone."""
    head = model.get_output_embeddings()

    def narrow(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (cut(inputs[0], where), *inputs[1:])

    handle = head.register_forward_pre_hook(narrow)
    try:
        yield
    finally:
        handle.remove()


def attention_mask(model: Any, batch: Batch) -> Any:
    """Return the additive mask(s) of a batch, (rows, 1, length, prefix + length), model's dtype.

    A token sees tokens of its own branch and of the prefix at no later position, and within the
    window where the layer has one. Models whose layers differ take a mask for each layer type.
    """
    assert batch.branch is not None and batch.positions is not None
    branch, positions = batch.branch, batch.positions
    if batch.prefix:
        before = torch.arange(len(batch.prefix), device=positions.device)
        before = before.expand(len(positions), -1)
        branch = torch.cat([torch.zeros_like(before), branch], dim=1)
        positions = torch.cat([before, positions], dim=1)
    seen_by, seen = batch.branch[:, :, None], branch[:, None, :]
    distance = batch.positions[:, :, None] - positions[:, None, :]
    allowed = ((seen == 0) | (seen == seen_by)) & (distance >= 0)
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    full = _additive(allowed, model.dtype)
    windowed = _additive(allowed & (distance < window), model.dtype) if window else full
    if "sliding_attention" in kinds:
        return {"full_attention": full, "sliding_attention": windowed}
    return windowed


def _additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return 0 where allowed, the dtype's least value elsewhere."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
