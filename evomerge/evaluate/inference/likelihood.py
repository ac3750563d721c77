"""Log-likelihoods of continuations, each shared prompt read once, the head on scored tokens only.

The requests of one document become one row: their common prefix, then the rest of each request
as a branch. A branch sees the prefix and itself, by a 4-D attention mask, and its positions go on
from the prefix. Requests that differ in their last (scored, never read) token only are the same
row without branches, and need no mask.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from evomerge.evaluate.inference.generation import cache_argument
from evomerge.evaluate.inference.prefix import Prefix, Prefixes
from evomerge.evaluate.inference.rows import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

Answer: TypeAlias = tuple[float, bool]


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
        starts: (continuations,) where the targets of each continuation start.
        numbers: numbers of the continuations.
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
    """Return (log-likelihood, whether greedy decoding would say it) of every continuation.

    As lm-eval's HFLM: log-softmax in the model's own dtype, summed and rounded to that dtype.

    Args:
        count: number of continuations; they are numbered 0 .. count - 1.
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
