"""Short texts by which ways of running a model are compared, cut from the documents of a search."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple, Self

import torch

from evomerge.evaluation.inference.generation import Prompt
from evomerge.evaluation.inference.reference import Request
from evomerge.evaluation.inference.rows import MIN_ROWS, Continuation, Row, by_prefix, spread

NEW = 3  # generated tokens by which ways of running are compared
SHORT = 32  # tokens of a short context there


def within(requests: Sequence[Request], limit: float) -> Sequence[Request]:
    """Return the requests of a document, cut from the left so that no text passes `limit` tokens.

    All continuations lose equally many tokens, so they go on sharing a context.
    """
    if math.isinf(limit):
        return requests
    most = int(limit) - 1  # `part_of` may add a token
    lengths = [len(c.tokens) for request in requests for c in request.continuations]
    excess = max(0, max(lengths, default=0) - most)

    def cut(continuation: Continuation) -> Continuation:
        tokens = continuation.tokens[excess:] or continuation.tokens[-1:]
        return Continuation(tokens, continuation.targets[-len(tokens) :])

    def shortened(prompt: Prompt) -> Prompt:
        return replace(prompt, tokens=prompt.tokens[-max(1, int(limit) - prompt.limit) :])

    return [
        replace(
            request,
            continuations=tuple(map(cut, request.continuations)),
            prompts=tuple(map(shortened, request.prompts)),
        )
        for request in requests
    ]


def number_of(row: Row) -> int:
    """Return the index of a row's last continuation."""
    return row.scored[-1][0]


def positions_of(row: Row) -> int:
    """Return how many positions the longest continuation of a row takes."""
    return len(row.start) + max(map(len, row.branches), default=0)


def part_of(row: Row, number: int, most: int | None = None) -> Row:
    """Return a row with the last continuation of one, by this number.

    Its other branch has its last tokens and its last target (-1): a model that saw these would
    repeat them. At most the `most` last tokens come before the branches.
    """
    start = row.start[-most:] if most else row.start
    _, last, targets = max(row.scored, key=lambda item: len(item[1]))
    part, predicted = Row(start), targets[-len(start + last) :]
    if last:
        seen = (*last, targets[-1])[-max(2, len(last)) :]  # no longer, as positions may end
        part.add(-1, seen, targets[-len(start + seen) :])
    part.add(number, last, predicted)
    return part


def last_of(row: Row) -> Row:
    """Return a row of the last continuation alone."""
    number, branch, targets = row.scored[-1]
    return Row(row.start + branch, scored=[(number, (), targets)])


class RowProbes(NamedTuple):
    """Rows by which ways of scoring are compared.

    Attributes:
        runs: rows that are run together: two short ones side by side, the shorter one padded; where
            rows have branches, also the longest row, and that with the longest continuation.
        long: the same longest rows without branches. In each way such a row is a plain pass, so it
            only has to be possible.
        sharing: rows with the longest prefix that rows share.
    """

    runs: list[list[Row]]
    long: list[Row]
    sharing: list[Row]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Self:
        """Return the probes that are cut from the packed rows of some documents."""
        rows, probes = sorted(rows, key=len), cls([], [], [])
        for padded, has_branches in ((-2, False), (-3, True)):  # numbers that no continuation has
            if not (alike := [row for row in rows if bool(row.branches) == has_branches]):
                continue
            first, short = alike[0], min(SHORT, len(alike[0].start))
            pair = [part_of(first, -1, short), part_of(first, padded, max(1, short // 2))]
            probes.runs.append(pair)
            longest = {number_of(row): row for row in (alike[-1], max(alike, key=positions_of))}
            parts = [part_of(row, number) for number, row in longest.items()]
            (pair if has_branches else probes.long).extend(parts)
        groups = [group for group in by_prefix(rows) if group[0]]
        prefix, group = max(groups, key=lambda group: len(group[0]), default=((), []))
        for row in spread(sorted(group, key=len, reverse=True), MIN_ROWS):
            whole = replace(row, start=prefix + row.start)
            probes.sharing.append(part_of(whole, number_of(row)))
        return probes

    def alone(self) -> list[Row]:
        """Return the last continuation of each probe that is compared, as a row of its own."""
        compared = chain(*self.runs, self.long, self.sharing[:1])
        rows = {number_of(row): last_of(row) for row in compared}
        return [row for number, row in rows.items() if number != -1]


def reach(prompt: Prompt) -> int:
    """Return how many tokens a prompt and its answer may have."""
    return len(prompt.tokens) + prompt.limit


def prompt_probes(model: Any, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return prompts from the longest to the shortest, by which ways of generating are compared.

    They are that of the longest text, the longest prompt, and two short ones side by side.
    """
    longest, limit = max(prompts, key=reach), min(NEW, max(prompt.limit for prompt in prompts))
    short = longest.tokens[-SHORT:]
    most = max(1, reach(longest) - limit)  # positions may end where the longest text does
    long = max((prompt.tokens for prompt in prompts), key=len)
    texts = (_stretched(model, longest)[:most], long[:most], short, short[len(short) // 2 :])
    return [Prompt(tokens, (), limit) for tokens in dict.fromkeys(texts)]


def _stretched(model: Any, prompt: Prompt) -> tuple[int, ...]:
    """Return a prompt's tokens, repeated up to the sliding window if its answer would pass that.

    So a few new tokens tell what happens there.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
    if len(prompt.tokens) < window <= reach(prompt) - NEW:
        return (prompt.tokens * window)[:window]
    return prompt.tokens


def agree(one: torch.Tensor, other: torch.Tensor, model: Any) -> bool:
    """Return whether logits, (positions, vocabulary), differ only by rounding.

    In bfloat16 rounding makes up to 0.11 of their spread with models of 18 to 30 layers, and 0.016
    with 3; a mask without effect makes 0.4 or more, a position that is off by one mostly more than
    0.2, in small models less.
    """
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", 24)
    rounding = 5 * layers**0.5 * torch.finfo(model.dtype).eps
    scale = (other - other.mean(-1, keepdim=True)).norm(dim=-1)
    off = (one.to(other.device) - other).norm(dim=-1)
    return bool((off <= max(1e-3, rounding) * scale).all())
