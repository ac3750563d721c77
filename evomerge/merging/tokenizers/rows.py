"""Reordering the rows of a parent's embeddings and head to the ids of the merged vocabulary.

If a parent does not have a token, its row comes from the first of these that exists, as in
mergekit: the recipe's option `tokens`; the base's row (the host's, if the recipe has a
`vocabulary`); the average of the rows of all parents that have the token.

Rows without a token (padding, unused ids) are copied from the parent that gives the tokenizer, if
it has them. Else they are the average of the matrix's other rows, whose logit is never the highest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from evomerge.errors import CheckpointError, RecipeError, did_you_mean
from evomerge.merging.tokenizers.tokens import Tokens
from evomerge.models.checkpoint import Checkpoint
from evomerge.parsing.texts import json_value
from evomerge.parsing.values import Values, shown
from evomerge.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

Read: TypeAlias = "Callable[[str], Tensor]"

TRUNCATE = "truncate_embeddings"
"""The option of a recipe that cuts embeddings and head to the rows that all parents have."""

_VALUES = Values(RecipeError)


class Filling(NamedTuple):
    """Where the row of one token comes from in parents that do not have it, or in all (`force`).

    `rows` are (parent, row) pairs that are averaged; if there are none, the row is all zeros.
    """

    rows: tuple[tuple[str, int], ...]
    force: bool = False


@dataclass(frozen=True, eq=False)
class MatchedRows:
    """A merged vocabulary whose rows are matched by token.

    Attributes:
        size: number of rows of the merged matrices, with padding.
        tokens: 1 + the largest id of a token.
        index: parent -> for each id of the merged vocabulary the row in the parent, or -1.
        filling: id -> where the row comes from in parents that do not have the token.
        keeper: the parent whose rows stay at their indices (it gives the tokenizer), or None.
        special_ids: token ids of the merged config that differ from the host's, by key.
    """

    size: int
    tokens: int
    index: Mapping[str, Sequence[int]]
    filling: Mapping[int, Filling]
    keeper: str | None
    special_ids: Mapping[str, object]

    def rows(self, parent: str, read: Read) -> Tensor:
        """Return one parent's matrix or bias with a row for every id of the merged vocabulary.

        It has the shape (size, ...) and the parent's dtype. If nothing changes, it is no copy.
        `read` returns the same tensor of any parent, as it is on disk.
        """
        import torch

        matrix, index = read(parent), torch.full((self.size,), -1)
        index[: self.tokens] = torch.tensor(self.index[parent], dtype=torch.int64)
        if parent == self.keeper:
            kept = torch.arange(self.tokens, max(self.tokens, min(len(matrix), self.size)))
            index[self.tokens : self.tokens + len(kept)] = kept
        forced = [i for i, filling in self.filling.items() if filling.force]
        if not forced and torch.equal(index, torch.arange(len(matrix))):
            return matrix
        out = matrix.index_select(0, index.clamp(min=0))
        absent = torch.nonzero(index < 0).flatten().tolist()
        groups: dict[tuple[str, ...], list[int]] = {}
        for i in [*(i for i in absent if i in self.filling), *forced]:
            groups.setdefault(tuple(parent for parent, _ in self.filling[i].rows), []).append(i)
        for parents, ids in groups.items():
            filled = [[row for _, row in self.filling[i].rows] for i in ids]
            by_parent = zip(parents, zip(*filled, strict=True), strict=True)
            rows = [read(name)[[*rows_there]] for name, rows_there in by_parent]
            if len(rows) > 1:
                rows = [reduce(lambda one, more: one.float() + more, rows) / len(rows)]
            out[ids] = rows[0].to(out.dtype) if rows else 0
        empty = [i for i in absent if i not in self.filling]
        if empty:
            out[empty] = 0
            # Block by block: in float64 the whole matrix would take four times its memory.
            blocks = out.split(4096)  # type: ignore[no-untyped-call]
            total = sum(block.sum(0, dtype=torch.float64) for block in blocks)
            out[empty] = (total / (self.size - len(empty))).to(out.dtype)
        return out


def fill(
    recipe: Recipe, merged: Tokens, tokens: Sequence[Tokens], index: Mapping[str, Sequence[int]]
) -> dict[int, Filling]:
    """Return for every token that a parent lacks where its row comes from, by id.

    `RecipeError`: a key, token, parent or row in the option `tokens` (mergekit's `tokenizer.tokens`
    as JSON) is wrong. `index` is that of `MatchedRows`.
    """
    base = recipe.embeddings.base and recipe.embeddings.base.parent
    base = recipe.host if recipe.vocabulary else base
    fillings: dict[int, Filling] = {}
    for i in merged.ids.values():
        if any(rows[i] < 0 for rows in index.values()):
            have = [(name, rows[i]) for name, rows in index.items() if rows[i] >= 0]
            preferred = [pair for pair in have if pair[0] == base]
            if have:
                fillings[i] = Filling(tuple(preferred or have))
    option = recipe.options.get("tokens")
    policies = json_value(option, "The option `tokens`", RecipeError) if option else {}
    for text, policy in _VALUES.mapping(policies, "tokens").items():
        where = f"tokens.{text}"
        _VALUES.mapping(policy, where, ("source", "force"))
        if "source" not in policy:
            raise RecipeError(f"`{where}.source` is missing.")
        if text not in merged.ids:
            raise RecipeError(
                f"`tokens` names {shown(text)}, which is in no tokenizer of the merge; leave it "
                f"out or add a parent that has it.{did_you_mean(text, merged.ids)}"
            )
        force = _VALUES.flag(policy.get("force", False), f"{where}.force")
        fillings[merged.ids[text]] = Filling(_source_rows(text, policy["source"], tokens), force)
    return fillings


def _source_rows(text: str, source: Any, tokens: Sequence[Tokens]) -> tuple[tuple[str, int], ...]:
    """Return the (parent, row) pairs for the `source` of one token in the option `tokens`."""
    where = f"tokens.{text}.source"
    if isinstance(source, str):
        source = {"kind": "model_token", "model": source, "token": text}
    _VALUES.mapping(source, where, ("kind", "model", "token", "token_id"))
    if source.get("kind") == "zero":
        return ()
    if source.get("kind") != "model_token" or ("token" in source) == ("token_id" in source):
        raise RecipeError(
            f"`{where}` is {shown(source)}; it must be a model, {{kind: zero}}, or {{kind: "
            "model_token, model: ..., token: ...}} (or token_id)."
        )
    models = {item.reference: item for item in tokens}
    model = models.get(str(source.get("model")))
    if model is None:
        raise RecipeError(
            f"`{where}.model` is {shown(source.get('model'))}; allowed are {', '.join(models)}."
        )
    wanted = source.get("token", source.get("token_id"))
    row = model.row(str(wanted)) if "token" in source else wanted
    if not (type(row) is int and 0 <= row < model.rows):
        raise RecipeError(f"`{where}`: {model.reference!r} has no row for {shown(wanted)}.")
    return ((model.reference, row),)


def truncate(parents: Sequence[Checkpoint]) -> tuple[MatchedRows, tuple[str, ...]]:
    """Return the rows that all parents have, and a warning if rows are cut off.

    This is mergekit's `--unsafe-truncate-embeddings`. `CheckpointError`: a parent has no rows.
    """
    sizes = {parent.reference: parent.vocabulary for parent in parents}
    least, most = min(sizes.values()), max(sizes.values())
    if not least:
        raise CheckpointError(
            f"{min(sizes, key=sizes.__getitem__)!r} has no embeddings; leave out "
            "--unsafe-truncate-embeddings."
        )
    index = dict.fromkeys(sizes, tuple(range(least)))
    rows = MatchedRows(least, least, index, filling={}, keeper=None, special_ids={})
    note = (
        f"Embeddings and head of up to {most} rows are cut to {least}; the merged model has no "
        f"token with an id of {least} or more, even if its tokenizer has one."
    )
    return rows, (note,) if least < most else ()
