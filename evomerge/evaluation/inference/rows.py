"""Rows: token sequences that a model reads to score continuations, a shared context only once.

The requests of one document (the choices of a question) are packed into one row: the tokens that
all of them begin with, then the remaining tokens of each as a branch. What many rows begin with
(few-shot examples) is computed once for all of them; the results are the same up to rounding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Any, Literal, Self, TypeAlias

Tokens: TypeAlias = tuple[int, ...]

MIN_TOKENS = 48  # of a shared prefix; a shorter one is not worth a forward pass of its own
MIN_ROWS = 3  # that share a prefix
_LONGEST_PACKED = 2048  # tokens; the cost of attention grows with the square of the row's length

End: TypeAlias = Literal["token", "stop", "none"]
"""What ends a generated answer: the end token, the task's first stop string, or nothing."""


@dataclass(frozen=True)
class Form:
    """How a reference answer looks to the model: what comes before and after it.

    `delimiter` is whether the task's `target_delimiter` (mostly a blank) comes before it.
    """

    delimiter: bool = True
    end: End = "token"


ANY = "*"
"""Stands for all tasks that have no form of their own."""

Forms: TypeAlias = Mapping[str, Form]
"""Task -> how its reference answers look."""


def form_of(forms: Forms, task: str) -> Form:
    """Return the form of a task's answers: its own one, that of `ANY`, or the default."""
    return forms.get(task) or forms.get(ANY) or Form()


def forms_in_words(forms: Forms) -> str:
    """Return the forms for people."""
    ends = {"token": "before the end token", "stop": "before the first stop string"}
    return "; ".join(
        f"{'in general' if task == ANY else task}: {'after' if form.delimiter else 'without'} the "
        f"delimiter, {ends.get(form.end, 'without an end')}"
        for task, form in forms.items()
    )


@dataclass(frozen=True)
class Continuation:
    """A continuation whose log-likelihood after its context is wanted.

    `tokens` is the model's input: the context and the continuation without its last token, cut from
    the left to the model's maximum length. `targets` is the continuation; the last of `tokens`
    predicts the last of it.
    """

    tokens: Tokens
    targets: Tokens

    @classmethod
    def of(cls, context: Sequence[int], continuation: Sequence[int], longest: int) -> Self:
        """Return a continuation, truncated as in `HFLM._loglikelihood_tokens`.

        The model can read `longest` tokens.
        """
        text = [*context, *continuation][-(longest + 1) :]
        return cls(tuple(text[:-1]), tuple(continuation[-len(text) + 1 :]))


@dataclass
class Row:
    """One row of tokens, and the continuations that it scores.

    Attributes:
        start: the tokens that all continuations begin with.
        branches: different tokens behind the start, each of which goes on from it.
        scored: of each continuation its index, its branch (`()`: none) and its targets.
    """

    start: Tokens
    branches: list[Tokens] = field(default_factory=list)
    scored: list[tuple[int, Tokens, Tokens]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.start) + sum(map(len, self.branches))

    @property
    def tokens(self) -> list[int]:
        """The start, then the branches one after the other."""
        return [token for part in (self.start, *self.branches) for token in part]

    @property
    def positions(self) -> list[int]:
        """The position of each token; every branch counts on from the start."""
        first = len(self.start)
        behind = (range(first, first + len(branch)) for branch in self.branches)
        return [position for part in (range(first), *behind) for position in part]

    @property
    def branch(self) -> list[int]:
        """For each token, 0 in the start and i in the i-th branch."""
        parts = enumerate((self.start, *self.branches))
        return [number for number, part in parts for _ in part]

    def columns(self) -> list[list[int]]:
        """For each continuation, the columns that predict its targets."""
        first = end = len(self.start)
        columns: dict[Tokens, range] = {(): range(0)}
        for branch in self.branches:
            columns[branch] = range(end, end := end + len(branch))
        return [
            [*range(first), *columns[branch]][first + len(branch) - len(targets) :]
            for _, branch, targets in self.scored
        ]

    def add(self, index: int, branch: Tokens, targets: Tokens) -> None:
        """Score a continuation too."""
        if branch and branch not in self.branches:
            self.branches.append(branch)
        self.scored.append((index, branch, targets))

    def shareable(self) -> int:
        """Return how many first tokens may be shared: none that predicts a target."""
        first = len(self.start)
        ends = (first + len(branch) - len(targets) for _, branch, targets in self.scored)
        return min(first, *ends)


def pack(continuations: Sequence[Continuation], indices: Sequence[int]) -> list[Row]:
    """Return rows that score the continuations of one document after their common prefix.

    This is one row, unless it would be longer than 2,048 tokens. The log-likelihood of each
    continuation is returned by its index.
    """
    inputs = [continuation.tokens for continuation in continuations]
    prefix = common(min(inputs), max(inputs))
    rows: list[Row] = []
    for index, continuation in zip(indices, continuations, strict=True):
        rest = continuation.tokens[prefix:]
        if not rows or len(rows[-1]) + len(rest) > max(_LONGEST_PACKED, prefix + len(rest)):
            rows.append(Row(inputs[0][:prefix]))
        rows[-1].add(index, rest, continuation.targets)
    return rows


def separate(continuations: Sequence[Continuation], indices: Sequence[int]) -> list[Row]:
    """Return one row for each different input; this works with every architecture."""
    rows: dict[Tokens, Row] = {}
    for index, continuation in zip(indices, continuations, strict=True):
        row = rows.setdefault(continuation.tokens, Row(continuation.tokens))
        row.add(index, (), continuation.targets)
    return list(rows.values())


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` of some items, evenly spread, the first and the last too."""
    if len(items) <= most:
        return list(items)
    step = (len(items) - 1) / (most - 1)
    return [items[round(step * number)] for number in range(most)]


def common(one: Sequence[object], other: Sequence[object]) -> int:
    """Return how many first items two sequences have in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def by_prefix(rows: Sequence[Row]) -> Iterator[tuple[Tokens, list[Row]]]:
    """Group rows by shared prefixes; yield each prefix and its rows without it.

    Rows that share no prefix come last, with an empty one. A row always keeps the tokens that
    predict its targets. Sorted rows are cut into groups where one shares less with the row before
    it than half of what is usual, so that no row with another prefix shortens that of a group.
    """
    ordered = sorted(rows, key=lambda row: row.tokens)
    starts = [row.start[: row.shareable()] for row in ordered]
    shared = [common(one, other) for one, other in pairwise(starts)]
    least = max(MIN_TOKENS, median(shared or [0]) / 2)
    cuts = [0, *(i + 1 for i, count in enumerate(shared) if count < least), len(rows)]
    alone: list[Row] = []
    for first, last in pairwise(cuts):
        group = ordered[first:last]
        if len(group) < MIN_ROWS:
            alone += group
        else:
            length = min(shared[first : last - 1])
            yield starts[first][:length], [replace(row, start=row.start[length:]) for row in group]
    if alone:
        yield (), alone
