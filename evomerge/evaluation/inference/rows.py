"""Rows of tokens that a model reads, a shared context only once, and batches of rows.

The requests of one document (the choices of a question) are packed into one row: the tokens that
all of them begin with, then the remaining tokens of each as a branch. What many rows begin with
(few-shot examples) is computed once for all of them; the results are the same up to rounding.

Batches have little padding, within the limits of a device. A backward pass needs the activations of
the forward pass. With checkpointing (Chen et al. 2016, arXiv 1604.06174), only the inputs of the
layers are kept, and each layer is computed once more: a third more time, and the same bits.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Any, Literal, Self, TypeAlias

from evomerge.compat.transformers import checkpointing_layers
from evomerge.device import device_memory, total_memory

Tokens: TypeAlias = tuple[int, ...]

MIN_TOKENS = 48  # of a shared prefix; a shorter one is not worth a forward pass of its own
MIN_ROWS = 3  # that share a prefix
_LONGEST_PACKED = 2048  # tokens; the cost of attention grows with the square of the row's length

_CPU_MOST, _CPU_GENERATED = 1024, 8192  # tokens; larger batches are hardly faster
_LOGIT = 8  # bytes of a logit on a CPU: itself and its log-softmax
_SHARE = 0.25  # share of a GPU's memory for a batch, in addition to the weights
_GPU_LEAST, _GPU_MOST = 256, 2**17  # tokens
_GPU_WIDER = 4  # batches that generate hold 4 x the tokens: most steps read one token a row
_CPU_PASS, _GPU_PASS = 48, 512  # tokens that cost as much as starting a pass: it reads all weights
MASKED = 1.1  # cost of a token in a batch whose attention needs a mask; 1 without
_KEPT = 0.5  # share of a device's memory for activations; if more is needed, fewer are kept

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


@dataclass(frozen=True)
class Batching:
    """The size limits of batches, and how to form them.

    Attributes:
        tokens: maximum tokens in a batch, padding included; a longer row is a batch by itself.
        rows: maximum rows in a batch, None for no limit.
        overhead: fixed cost of starting one more batch, expressed in padded tokens.
        generated: maximum tokens in a batch that generates, with the new ones.
    """

    tokens: int
    rows: int | None
    _: KW_ONLY
    overhead: int
    generated: int

    def cut(self, lengths: Sequence[int], padding: float = 1.0) -> list[list[int]]:
        """Return batches of indices into `lengths`, longest rows first.

        Rows are sorted by length and split where the total cost is lowest: a batch costs its number
        of rows x its longest row (x `padding`, if they differ in length), plus `overhead`.
        """
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        cost = [0.0] + [float("inf")] * len(order)
        origin = [0] * (len(order) + 1)
        for end in range(1, len(order) + 1):
            for start in range(end - 1, -1, -1):
                longest, rows = lengths[order[start]], end - start
                area = longest * rows
                if rows > 1 and (area > self.tokens or (self.rows and rows > self.rows)):
                    break
                factor = 1.0 if lengths[order[end - 1]] == longest else padding
                total = cost[start] + factor * area + self.overhead
                if total < cost[end]:
                    cost[end], origin[end] = total, start
        cuts = [len(order)]
        while cuts[-1]:
            cuts.append(origin[cuts[-1]])
        return [order[a:b] for a, b in pairwise(reversed(cuts))]

    def halved(self) -> Self:
        """Return the same limits with half as many tokens and rows."""
        rows = self.rows and max(1, self.rows // 2)
        return replace(self, tokens=self.tokens // 2, rows=rows, generated=self.generated // 2)


def batching(model: Any, batch_size: int | Literal["auto"]) -> Batching:
    """Return the size limits of batches on the model's device.

    On a GPU they depend on the model's shape and the total memory, not on the free memory, so that
    a resumed search makes the same batches.
    """
    rows = None if batch_size == "auto" else batch_size
    if model.device.type == "cpu":
        return Batching(_CPU_MOST, rows, overhead=_CPU_PASS, generated=_CPU_GENERATED)
    text = model.config.get_text_config()  # it knows by which names a kind of model has sizes
    names = ("hidden_size", "num_hidden_layers", "vocab_size")
    config = text.to_dict() | {name: getattr(text, name) for name in names}
    total = device_memory(str(model.device)) or 8 * 2**30
    activations, cached, vocabulary = _token_bytes(config, model.dtype.itemsize)
    fitting = int(total * _SHARE / (activations + cached + 12 * vocabulary + 1))
    tokens = max(_GPU_LEAST, min(_GPU_MOST, fitting))
    return Batching(tokens, rows, overhead=_GPU_PASS, generated=_GPU_WIDER * tokens)


def largest_batch(config: Mapping[str, Any], itemsize: int) -> int:
    """Return about how many bytes the largest batch takes on a CPU that is scored or generated.

    `config` has the settings of the language model, as config.json; `itemsize` is the bytes of a
    number in the model's dtype.
    """
    activations, cached, vocabulary = _token_bytes(config, itemsize)
    scored = _CPU_MOST * (activations + _LOGIT * vocabulary)
    return max(scored, _CPU_GENERATED * (activations + cached))


def _token_bytes(config: Mapping[str, Any], itemsize: int) -> tuple[int, int, int]:
    """Return about how many bytes a token takes in activations, in keys and values; its logits."""
    width, inner, layers = _shape(config)
    vocabulary = int(config.get("vocab_size") or 0)
    heads = int(config.get("num_attention_heads") or config.get("n_head") or 1)
    cached = 2 * layers * width * int(config.get("num_key_value_heads") or heads) // heads
    return itemsize * (8 * width + 3 * inner), itemsize * cached, vocabulary


def _shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the model's width, that of the inner part of its layers, and their number."""
    width = int(config.get("hidden_size") or config.get("n_embd") or 0)
    inner = int(config.get("intermediate_size") or config.get("n_inner") or 4 * width)
    return width, inner, int(config.get("num_hidden_layers") or config.get("n_layer") or 0)


def kept_bytes(config: Mapping[str, Any], itemsize: int) -> int:
    """Return about how many bytes a backward pass keeps of each token, without logits.

    For each layer these are four states of the width of its inner part and seven of the model's
    width, and what its two norms keep in float32, as measured with Llama-like models.
    """
    width, inner, layers = _shape(config)
    return layers * (itemsize * (4 * inner + 7 * width) + 8 * width)


def needs_checkpointing(model: Any, tokens: int) -> bool:
    """Whether the activations of a batch take too much of the device's memory."""
    config = model.config.get_text_config().to_dict()
    memory = device_memory(str(model.device)) or total_memory()
    return tokens * kept_bytes(config, model.dtype.itemsize) > _KEPT * memory


@contextmanager
def checkpointing(model: Any) -> Iterator[None]:
    """Keep only the inputs of layers in the block; a model without such layers stays as it is.

    Only the layers are in training mode, not what is in them, so that nothing is dropped out.
    """
    layers = checkpointing_layers(model)
    if not layers:
        yield
        return
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
        model.gradient_checkpointing_disable()
