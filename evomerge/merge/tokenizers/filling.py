"""What goes into a token's row in a parent that does not have the token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.errors import RecipeError, did_you_mean
from evomerge.merge.tokenizers.rows import Filling
from evomerge.merge.tokenizers.union import Tokens
from evomerge.recipe import Recipe


def fill(
    recipe: Recipe,
    merged: Tokens,
    tokens: Sequence[Tokens],
    index: Mapping[str, Sequence[int]],
) -> dict[int, Filling]:
    """Return what goes into a token's row where a parent has none, by merged id.

    Args:
        recipe: its option `tokens` holds mergekit's `tokenizer.tokens` as JSON.
        merged: the merged vocabulary.
        tokens: the parents' vocabularies.
        index: row of each merged token in each parent, -1 where it has none, by parent.

    Raises:
        RecipeError: `tokens` cannot be honoured.
    """
    base = recipe.before.base.parent if recipe.before.base else None
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
                f"`tokens` names {text!r}, which is in no tokenizer of the merge."
                f"{did_you_mean(text, merged.ids)}"
            )
        found[merged.ids[text]] = Filling(_source_rows(text, source, tokens), force)
    return found


def _policies(recipe: Recipe) -> dict[str, tuple[Any, bool]]:
    text = recipe.options.get("tokens")
    try:
        data = json.loads(text) if text else {}
    except ValueError as error:
        raise RecipeError(f"The option `tokens` is not JSON: {error}.") from error
    if not isinstance(data, dict):
        raise RecipeError("`tokens` must be a mapping from token to {source, force}.")
    found = {}
    for token, policy in data.items():
        where = f"tokens.{token}"
        _check_keys(policy, ("source", "force"), where)
        if "source" not in policy:
            raise RecipeError(f"`{where}.source` is missing.")
        force = policy.get("force", False)
        if not isinstance(force, bool):
            raise RecipeError(f"`{where}.force` is {force!r}; it must be true or false.")
        found[token] = (policy["source"], force)
    return found


def _source_rows(text: str, source: Any, tokens: Sequence[Tokens]) -> tuple[tuple[str, int], ...]:
    """Return the rows that one entry of `tokens` names: a model, or {kind: zero|model_token}."""
    where = f"tokens.{text}.source"
    if isinstance(source, str):
        source = {"kind": "model_token", "model": source, "token": text}
    _check_keys(source, ("kind", "model", "token", "token_id"), where)
    if source.get("kind") == "zero":
        return ()
    if source.get("kind") != "model_token" or ("token" in source) == ("token_id" in source):
        raise RecipeError(
            f"`{where}` is {source!r}; it must be a model, {{kind: zero}}, or {{kind: model_token, "
            "model: ..., token: ...}} (or token_id)."
        )
    model = next((item for item in tokens if item.reference == source.get("model")), None)
    if model is None:
        raise RecipeError(
            f"`{where}.model` is {source.get('model')!r}; allowed are the parents of the merge: "
            f"{', '.join(item.reference for item in tokens)}."
        )
    wanted = source.get("token", source.get("token_id"))
    row = model.row(wanted) if "token" in source else wanted
    if not (type(row) is int and 0 <= row < model.rows):
        raise RecipeError(f"`{where}`: {model.reference!r} has no row for the token {wanted!r}.")
    return ((model.reference, row),)


def _check_keys(data: Any, allowed: Sequence[str], where: str) -> None:
    if not isinstance(data, Mapping):
        raise RecipeError(f"`{where}` is {data!r}; it must be a mapping of {', '.join(allowed)}.")
    for key in data:
        if key not in allowed:
            raise RecipeError(
                f"Unknown key {key!r} in `{where}`; allowed are {', '.join(allowed)}."
                f"{did_you_mean(str(key), allowed)}"
            )
