"""Planning the tokenizer of a merged model, and the rows of its embeddings and head.

`tokenizer: base`    the host's tokenizer. Row i is merged from row i of all parents. Parents in
                     which an id is another token are refused.
`tokenizer: PARENT`  the tokenizer of that parent. Rows are merged by token.
`tokenizer: union`   the tokens of all parents; those of the host keep their ids.

The giver is the parent that the tokenizer comes from (for a union, the host), and its special
tokens are used. A parent that has no tokenizer and is not merged with others takes one as it is.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError, RecipeError, among, did_you_mean
from evomerge.merging.tokenizers.rows import TRUNCATE, MatchedRows, fill, truncate
from evomerge.merging.tokenizers.tokens import (
    Tokens,
    check_ids,
    check_merged,
    check_spelling,
    unite,
)
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import TOKENIZER_FILES, text_without_code, without_code
from evomerge.models.parts import has_tokenizer
from evomerge.models.safetensors import read_json
from evomerge.parsing.texts import read_text
from evomerge.parsing.values import shown
from evomerge.recipe import Recipe

GENERATION = "generation_config.json"
_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token")
_KEPT_FROM_HOST = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
TEMPLATES = ("chatml", "llama3", "alpaca", "mistral", "exaone")
"""Names, as in mergekit's `chat_template`, of Jinja templates in the folder `chat_templates`."""

_OPTIONS = ("chat_template", "pad_to_multiple_of", "tokens", TRUNCATE)


@dataclass(frozen=True, eq=False)
class TokenizerPlan:
    """The tokenizer of a merged model.

    Attributes:
        files: name -> text of tokenizer files (and the generation config) that are not the host's.
        dropped: names of files that the merged model must not take over from the host.
        rows: how rows are matched by token, or None if they are merged by id.
        notes: decisions where parents disagree, and tokens that are lost, one sentence each.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    rows: MatchedRows | None = None
    notes: tuple[str, ...] = ()


def plan_tokenizer(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> TokenizerPlan:
    """Plan the tokenizer of the model of a recipe. No weights are read.

    Options of recipes that count here: `chat_template`, `pad_to_multiple_of`, `tokens` (mergekit's
    `tokenizer.tokens`, as JSON) and `truncate_embeddings`.

    Raises:
        RecipeError: an option, or `tokenizer`, has a value that is not possible.
        CheckpointError: a tokenizer is missing or damaged, or the tokenizers do not fit.
    """
    for name in recipe.options:
        if name not in _OPTIONS:
            raise RecipeError(f"Unknown option {name!r}; allowed are {among(name, _OPTIONS)}")
    names = (recipe.host, *recipe.vocabulary) if recipe.vocabulary else recipe.parents
    parents = [checkpoints[name] for name in dict.fromkeys(names)]
    host = parents[0]
    if recipe.tokenizer == "base":
        for name in recipe.options.keys() & {"pad_to_multiple_of", "tokens"}:
            raise RecipeError(
                f"{name!r} needs rows matched by token; set `tokenizer` to `union` or a parent."
            )
        files, dropped = _template(recipe, parents, host)
        if TRUNCATE not in recipe.options:
            check_ids(parents)
            return TokenizerPlan(files, dropped)
        rows, notes = truncate(parents)
        check_ids(parents, below=rows.size)
        return TokenizerPlan(files, dropped, rows, notes)
    references = {"union": host, **{parent.reference: parent for parent in parents}}
    giver = references.get(recipe.tokenizer)
    if giver is None:
        allowed = among(recipe.tokenizer, ("base", *references))
        raise RecipeError(f"`tokenizer` is {recipe.tokenizer!r}; allowed are {allowed}")
    if not has_tokenizer(host) and replace(recipe, vocabulary=()).parents == (recipe.host,):
        files, dropped = _template(recipe, parents, giver)
        return TokenizerPlan({**_tokenizer_of(giver), **files}, dropped)
    return _matched(recipe, parents, giver)


def _matched(recipe: Recipe, parents: Sequence[Checkpoint], giver: Checkpoint) -> TokenizerPlan:
    """Return the plan for rows that are matched by token."""
    host = parents[0]
    tokens = [Tokens.of(parent) for parent in parents]
    check_spelling(tokens)
    lead = next(item for item in tokens if item.reference == giver.reference)
    others = [item for item in tokens if item is not lead]
    is_union = recipe.tokenizer == "union"
    data, notes = unite([lead, *others]) if is_union else (lead.data, [])
    notes += [
        f"The merged model lacks {len(texts)} of the tokens of {item.reference!r}, such as "
        f"{texts[0]!r}, which the tokenizer of {lead.reference!r} does not have."
        for item in (() if is_union else others)
        if (texts := [text for text in item.ids if text not in lead.ids])
    ]
    merged = Tokens(lead.reference, data, lead.rows)
    check_merged(data, merged.ids)
    notes += _special_token_notes(giver, parents)
    new = {i: merged.ids[text] for text, i in tokens[0].ids.items() if text in merged.ids}
    special = _special_ids(giver, host, new)
    template, outdated = _template(recipe, parents, giver)
    files = {} if giver is host else _tokenizer_of(giver)
    generation = host.folder / GENERATION
    if special and generation.is_file():
        settings = without_code(read_json(generation))
        known = {key: value for key, value in special.items() if key in settings}
        files[GENERATION] = _json({**settings, **known})
    files |= template
    if is_union:
        files["tokenizer.json"] = _json(data)
        config = dict(_tokenizer_config(giver))
        if "added_tokens_decoder" in config:
            config["added_tokens_decoder"] = {
                str(item["id"]): {key: item[key] for key in item if key != "id"}
                for item in data["added_tokens"]
            }
            files["tokenizer_config.json"] = _json(config)
    if is_union or giver is not host:
        kept = _KEPT_FROM_HOST if giver is host else ()
        outdated += tuple(name for name in TOKENIZER_FILES if name not in (*files, *kept))
    rows = _rows(recipe, merged, lead, tokens, special)
    return TokenizerPlan(files, outdated, rows, tuple(notes))


def _rows(
    recipe: Recipe,
    merged: Tokens,
    lead: Tokens,
    tokens: Sequence[Tokens],
    special_ids: Mapping[str, Any],
) -> MatchedRows:
    index = {}
    for item in tokens:
        known = item.rows if item is lead else 0  # ids without a token keep their rows
        rows = [i if i < known else -1 for i in range(merged.size)]
        for text, i in merged.ids.items():
            rows[i] = item.row(text)
        index[item.reference] = tuple(rows)
    multiple = recipe.options.get("pad_to_multiple_of", "0")
    if not re.fullmatch(r"[0-9]{1,6}", multiple):
        raise RecipeError(
            f"`pad_to_multiple_of` is {shown(multiple)}; give a whole number above 0, below 10^6."
        )
    size, step = max(merged.size, lead.rows), int(multiple)
    return MatchedRows(
        size=-(-merged.size // step) * step if step else size,
        tokens=merged.size,
        index=index,
        filling=fill(recipe, merged, tokens, index),
        keeper=lead.reference,
        special_ids=special_ids,
    )


def _special_ids(giver: Checkpoint, host: Checkpoint, new: Mapping[int, int]) -> dict[str, Any]:
    """Return the token ids of the merged config that differ from the host's, by key.

    `new`: id of the host -> merged id. `CheckpointError`: the token of an image or sound is lost.
    """
    if giver is host:
        return {}

    def renumber(value: Any) -> Any:
        if isinstance(value, list):
            return [item for item in map(renumber, value) if item is not None]
        return new.get(value) if isinstance(value, int) else None

    ids = {}
    for section in (host.config, host.text_config, giver.config, giver.text_config):
        for key, value in section.items():
            if key.endswith(("_token_id", "_token_index")) and value is not None:
                value_there = giver.text_config.get(key, giver.config.get(key))
                ids[key] = renumber(value) if value_there is None else value_there
    for key, value in ids.items() if host.modalities else ():
        if value is None and re.sub(r"_(id|index)$", "", key) not in _ROLES:
            raise CheckpointError(
                f"`tokenizer` is {giver.reference!r}, which lacks the token that {key} of the host "
                f"names; set `tokenizer` to {host.reference!r} or `union`."
            )
    return ids


def _tokenizer_of(giver: Checkpoint) -> dict[str, str]:
    """Return the tokenizer files of a parent, as texts."""
    Tokens.of(giver)
    files = [giver.folder / name for name in TOKENIZER_FILES if not name.endswith(".model")]
    return {
        file.name: text_without_code(file) or read_text(file, CheckpointError)
        for file in files
        if file.is_file()
    }


def _special_token_notes(giver: Checkpoint, parents: Sequence[Checkpoint]) -> list[str]:
    """Return a note for each special token (bos, eos, ...) that differs from the giver's."""
    notes, ours = [], _tokenizer_config(giver)
    for parent in parents:
        theirs = _tokenizer_config(parent)
        for role in _ROLES:
            tokens = [config.get(role) for config in (ours, theirs)]
            # A config has the text of a token as it is, or with its settings.
            used, other = (it.get("content") if isinstance(it, Mapping) else it for it in tokens)
            if other is not None and used != other:
                notes.append(
                    f"{role} is {shown(used)} in {giver.reference!r} and {shown(other)} in "
                    f"{parent.reference!r}; that of {giver.reference!r} is used."
                )
    return notes


def _tokenizer_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the content of `tokenizer_config.json`, without keys that let code run."""
    file = checkpoint.folder / "tokenizer_config.json"
    return without_code(read_json(file)) if file.is_file() else {}


def _template(
    recipe: Recipe, parents: Sequence[Checkpoint], giver: Checkpoint
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the files for the recipe's chat template, and the names of files to leave out."""
    wanted = recipe.options.get("chat_template")
    text = choose_template(wanted, parents, giver) if wanted is not None else None
    if text is None or text == giver.chat_template:
        return {}, ()
    files = {"chat_template.jinja": text}
    config = dict(_tokenizer_config(giver))
    if config.pop("chat_template", None) is not None:
        files["tokenizer_config.json"] = _json(config)
    return files, ("chat_template.json",)


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n"


def choose_template(wanted: str, parents: Sequence[Checkpoint], giver: Checkpoint) -> str | None:
    """Return the text of the template that the option `chat_template` selects, or None.

    `wanted` is `auto`, a name in `TEMPLATES`, the reference of a parent, or the text of a Jinja
    template. `auto` selects the template that most parents have; if there are several of these,
    that of `giver`, whose tokenizer the merged model gets, or else that of the first parent.

    Raises:
        RecipeError: the option is none of these, or the parent has no template.
    """
    if wanted == "auto":
        order = [giver, *(parent for parent in parents if parent is not giver)]
        templates = [text for parent in order if (text := parent.chat_template) is not None]
        return Counter(templates).most_common(1)[0][0] if templates else None
    if wanted in TEMPLATES:
        file = Path(__file__).with_name("chat_templates") / f"{wanted}.jinja"
        return file.read_text(encoding="utf-8")
    named = [parent for parent in parents if parent.reference == wanted]
    is_text = "{%" in wanted or "{{" in wanted
    text = named[0].chat_template if named else wanted if is_text else None
    if text is None:
        kind = ", a parent without a chat template" if named else ""
        raise RecipeError(
            f"`chat_template` is {shown(wanted)}{kind}; allowed are auto, {', '.join(TEMPLATES)}, "
            f"a parent that has one, or the text of a Jinja template."
            f"{did_you_mean(wanted, TEMPLATES)}"
        )
    return text
