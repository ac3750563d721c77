"""Log-likelihoods of continuations: rows as tensors, attention masks, scoring.

A row with branches (`rows.py`) needs a 4-D attention mask, by which each branch sees the prefix and
itself; its position ids go on from the prefix. A row without branches needs no mask. The output
head is applied only to the positions that predict a target.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from evomerge.compat.transformers import cache_arguments
from evomerge.evaluation.inference.rows import Row, Tokens

LogLikelihood: TypeAlias = tuple[float, bool]
"""A continuation's log-likelihood, and whether greedy decoding would produce it."""

_Layers: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, (1, heads, length, features)."""


@dataclass(kw_only=True)
class Batch:
    """Rows as tensors, on the model's device; all are int64.

    Attributes:
        tokens: (rows, length), padded on the right.
        positions: (rows, length) position ids, or None if no row has branches or a prefix.
        branch: (rows, length), -1 at padding, or None if no row has branches or a prefix.
        where: (2, scored): row and column of every position that predicts a target.
        index: (targets,): for each target, which of these positions predicts it.
        targets: (targets,), those of all continuations one after the other.
        starts: for each continuation, where its targets begin in `targets`.
        indices: for each continuation, its index.
        prefix: tokens before every row, which are not part of `tokens`.
    """

    tokens: torch.Tensor
    positions: torch.Tensor | None
    branch: torch.Tensor | None
    where: torch.Tensor
    index: torch.Tensor
    targets: torch.Tensor
    starts: NDArray[np.intp]
    indices: list[int]
    prefix: Tokens = ()

    @classmethod
    def of(cls, rows: Sequence[Row], pad: int, device: torch.device, prefix: Tokens = ()) -> Self:
        """Return a batch of rows, padded with the token id `pad`."""
        length = max(len(row) for row in rows)
        packed = bool(prefix) or any(row.branches for row in rows)

        tensor = partial(torch.tensor, dtype=torch.int64, device=device)

        def table(lines: Iterable[list[int]], fill: int) -> torch.Tensor:
            return tensor([line + [fill] * (length - len(line)) for line in lines])

        reads: dict[tuple[int, int], int] = {}
        index, targets, starts, indices = (list[int]() for _ in range(4))
        for line, row in enumerate(rows):
            for (number, _, predicted), columns in zip(row.scored, row.columns(), strict=True):
                starts.append(len(targets))
                indices.append(number)
                targets += predicted
                index += [reads.setdefault((line, column), len(reads)) for column in columns]
        return cls(
            tokens=table((row.tokens for row in rows), pad),
            positions=table((row.positions for row in rows), 0) + len(prefix) if packed else None,
            branch=table((row.branch for row in rows), -1) if packed else None,
            where=tensor(list(reads)).T,
            index=tensor(index),
            targets=tensor(targets),
            starts=np.array(starts, dtype=np.intp),
            indices=indices,
            prefix=prefix,
        )


def score(
    model: Any, batches: Sequence[Batch], count: int, gather: bool = True
) -> list[LogLikelihood]:
    """Return the log-likelihood of each of `count` continuations, in the order of their indices.

    As in lm-eval's HFLM, the log-softmax is computed in the model's dtype, and the sum over a
    continuation's tokens is rounded to that dtype. `gather` applies the output head only to scored
    positions; otherwise all logits are computed and selected from.
    """
    totals = np.full(count, np.nan)
    greedy = np.zeros(count, dtype=bool)
    with torch.inference_mode():
        for batch, logits in _batch_logits(model, batches, gather):
            scores = torch.log_softmax(logits, dim=-1)
            picked = scores[batch.index, batch.targets]
            hit = scores.argmax(dim=-1)[batch.index] == batch.targets
            parts = picked.float().cpu().numpy().astype(np.float64)
            sums = torch.from_numpy(np.add.reduceat(parts, batch.starts)).to(scores.dtype)
            totals[batch.indices] = sums.double().numpy()
            greedy[batch.indices] = np.logical_and.reduceat(hit.cpu().numpy(), batch.starts)
    return list(zip(totals.tolist(), greedy.tolist(), strict=True))


def last_logits(
    model: Any, batches: Sequence[Batch], gather: bool, most: int
) -> dict[int, torch.Tensor]:
    """Return the logits of the last `most` targets of each continuation, by its index.

    They are (targets, vocabulary), float32.
    """
    found = {}
    with torch.inference_mode():
        for batch, logits in _batch_logits(model, batches, gather):
            parts = batch.index.tensor_split(batch.starts[1:].tolist())
            for index, part in zip(batch.indices, parts, strict=True):
                found[index] = logits[part[-most:]].float()
    return found


def _batch_logits(
    model: Any, batches: Iterable[Batch], gather: bool
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Yield batches and their logits at the scored positions, (scored, vocabulary)."""
    prefix: Tokens = ()
    layers: _Layers = []
    for batch in batches:
        if batch.prefix and batch.prefix != prefix:
            layers = []  # two prefixes may not fit
            prefix, layers = batch.prefix, _read(model, batch.prefix)
        yield batch, _logits(model, batch, gather, layers).to(batch.index.device)


def target_distributions(model: Any, batch: Batch) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Return the log-probabilities of all tokens at the scored positions, with their gradient.

    The batch has no prefix. The result is (positions, vocabulary) float32; and for each
    continuation, in the order of `batch.indices`, the positions that predict its targets.
    """
    scores = torch.log_softmax(_logits(model, batch, True, []).float(), dim=-1)
    return scores, batch.index.to(scores.device).tensor_split(batch.starts[1:].tolist())


def _read(model: Any, prefix: Tokens) -> _Layers:
    """Return the keys and values of a prefix."""
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    cache_argument, last = cache_arguments(model.__class__)
    tokens = torch.tensor([prefix], device=model.device)
    model(**{"input_ids": tokens, "use_cache": True, cache_argument: cache, **last})
    return [(layer.keys, layer.values) for layer in cache.layers]


def _logits(model: Any, batch: Batch, gather: bool, layers: _Layers) -> torch.Tensor:
    """Return the logits at the scored positions, (scored, vocabulary)."""
    inputs: dict[str, Any] = {"input_ids": batch.tokens}
    if gather:  # else as lm-eval calls it: without a cache, the last bits may differ in bfloat16
        inputs["use_cache"] = False
    if batch.prefix:
        from transformers import DynamicCache

        cache, rows = DynamicCache(), len(batch.tokens)
        for number, (keys, values) in enumerate(layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
        inputs[cache_arguments(model.__class__)[0]] = cache
    if batch.branch is not None:
        inputs["position_ids"] = batch.positions
        inputs["attention_mask"] = attention_mask(model, batch)
    if not gather:
        return _scored(model(**inputs).logits, batch)
    head = model.get_output_embeddings() or torch.nn.Identity()  # without a head nothing is changed
    with head.register_forward_pre_hook(lambda _, args: (_scored(args[0], batch), *args[1:])):
        logits: torch.Tensor = model(**inputs).logits
    if logits.dim() != 2:
        raise ValueError("the head of this model cannot be applied to scored positions only")
    return logits


def _scored(states: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the states at the scored positions: (rows, length, features) -> (scored, features)."""
    rows, columns = batch.where.to(states.device)
    return states[rows, columns]


def attention_mask(model: Any, batch: Batch) -> Any:
    """Return the additive attention mask of a batch: (rows, 1, length, prefix + length).

    A token sees the tokens of the prefix and of its own branch, up to its own position, and only
    those within the sliding window where a layer has one. The dtype is the model's. A model whose
    layers differ in the window gets one mask for each layer type, by its name.
    """
    assert batch.branch is not None and batch.positions is not None
    branch, positions = batch.branch, batch.positions
    if batch.prefix:
        before = torch.arange(len(batch.prefix), device=positions.device)
        before = before.expand(len(positions), -1)
        branch = torch.cat([torch.zeros_like(before), branch], dim=1)
        positions = torch.cat([before, positions], dim=1)
    reader, read = batch.branch[:, :, None], branch[:, None, :]
    distance = batch.positions[:, :, None] - positions[:, None, :]
    allowed = ((read == 0) | (read == reader)) & (distance >= 0)
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)

    def additive(allowed: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(allowed.shape, dtype=model.dtype, device=allowed.device)
        return mask.masked_fill_(~allowed, torch.finfo(model.dtype).min)[:, None]

    full = additive(allowed)
    windowed = additive(allowed & (distance < window)) if window else full
    if "sliding_attention" in set(getattr(config, "layer_types", None) or ()):
        return {"full_attention": full, "sliding_attention": windowed}
    return windowed
