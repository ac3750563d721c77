"""Where the row of a token comes from in a parent that does not have the token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.errors import RecipeError, did_you_mean
from evomerge.merging.tokenizers.rows import Filling
from evomerge.merging.tokenizers.tokens import Tokens
from evomerge.parsing.texts import json_value
from evomerge.parsing.values import Values, shown
from evomerge.recipe import Recipe

_VALUES = Values(RecipeError)


def fill(
    recipe: Recipe,
    merged: Tokens,
    tokens: Sequence[Tokens],
    index: Mapping[str, Sequence[int]],
) -> dict[int, Filling]:
    """Return for every token that a parent lacks where its row comes from, by id.

    Args:
        recipe: the recipe. Its option `tokens` has mergekit's `tokenizer.tokens` as JSON.
        merged: the merged vocabulary.
        tokens: the vocabularies of the parents.
        index: parent -> for each id of the merged vocabulary the row in the parent, or -1.

    Raises:
        RecipeError: the option `tokens` has a wrong key, token, parent or row.
    """
    base = recipe.embeddings.base.parent if recipe.embeddings.base else None
    base = recipe.host if recipe.vocabulary else base
    found: dict[int, Filling] = {}
    for i in merged.ids.values():
        if any(rows[i] < 0 for rows in index.values()):
            have = [(name, rows[i]) for name, rows in index.items() if rows[i] >= 0]
            preferred = [pair for pair in have if pair[0] == base]
            if have:
                found[i] = Filling(tuple(preferred or have))
    policies = _policies(recipe)
    for text, (source, force) in policies.items():
        if text not in merged.ids:
            raise RecipeError(
                f"`tokens` names {shown(text)}, which is in no tokenizer of the merge; leave it "
                f"out or add a parent that has it.{did_you_mean(text, merged.ids)}"
            )
        found[merged.ids[text]] = Filling(_source_rows(text, source, tokens), force)
    return found


def _policies(recipe: Recipe) -> dict[str, tuple[Any, bool]]:
    text = recipe.options.get("tokens")
    data = json_value(text, "The option `tokens`", RecipeError) if text else {}
    found = {}
    for token, policy in _VALUES.mapping(data, "tokens").items():
        where = f"tokens.{token}"
        _VALUES.mapping(policy, where, ("source", "force"))
        if "source" not in policy:
            raise RecipeError(f"`{where}.source` is missing.")
        force = _VALUES.flag(policy.get("force", False), f"{where}.force")
        found[token] = (policy["source"], force)
    return found


def _source_rows(text: str, source: Any, tokens: Sequence[Tokens]) -> tuple[tuple[str, int], ...]:
    """Return the (parent, row) pairs for the `source` of one token in the option `tokens`.

    Args:
        text: the token.
        source: reference of a model, or a mapping {kind: zero} or {kind: model_token, ...}.
        tokens: the vocabularies of the parents.
    """
    where = f"tokens.{text}.source"
    if isinstance(source, str):
        source = {"kind": "model_token", "model": source, "token": text}
    _VALUES.mapping(source, where, ("kind", "model", "token", "token_id"))
    if source.get("kind") == "zero":
        return ()
    if source.get("kind") != "model_token" or ("token" in source) == ("token_id" in source):
        raise RecipeError(
            f"`{where}` is {shown(source)}; it must be a model, {{kind: zero}}, or "
            f"{{kind: model_token, "
            "model: ..., token: ...}} (or token_id)."
        )
    model = next((item for item in tokens if item.reference == source.get("model")), None)
    if model is None:
        raise RecipeError(
            f"`{where}.model` is {shown(source.get('model'))}; allowed are the parents of the "
            f"merge: {', '.join(item.reference for item in tokens)}."
        )
    wanted = source.get("token", source.get("token_id"))
    if "token" in source:
        row = model.row(_VALUES.text(wanted, f"{where}.token", "the text of a token"))
    else:
        row = wanted
    if not (type(row) is int and 0 <= row < model.rows):
        raise RecipeError(
            f"`{where}`: {model.reference!r} has no row for the token {shown(wanted)}."
        )
    return ((model.reference, row),)
