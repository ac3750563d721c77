"""By which settings the parents of a search differ, as far as these change results.

A merge has one config, one generation config, one tokenizer and one chat template; its parents may
have others. Left out is whatever concerns generation or chat templates where the tasks use neither.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evomerge.config.frozen import FrozenSetting
from evomerge.errors import CheckpointError, RecipeError, printable
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.encoder_decoder import merged_stacks
from evomerge.models.files import TOKENIZER_FILES
from evomerge.recipe import Recipe
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.encoders import encoder_settings
from evomerge.setup.modalities import sees_by_host
from evomerge.setup.model_settings import (
    Settings,
    Use,
    settings_of_configs,
    settings_of_generation,
    settings_of_tokenizer,
)
from evomerge.setup.tasks import uses_templates
from evomerge.space.paths.frame import parent_recipe

if TYPE_CHECKING:
    from evomerge.merging.tokenizers.plan import TokenizerPlan

CHAT_TEMPLATE = "chat_template"

_VOCABULARY = {
    *("tokenizer.model", "tokenizer.added_tokens", "bos_token", "eos_token", "pad_token"),
    *("unk_token", "cls_token", "sep_token"),
}
"""Settings of which the plan of a tokenizer with matched rows tells."""

_LONGEST = 48  # characters of a value in a sentence


def with_settings(checked: CheckedSearch) -> CheckedSearch:
    """Return a checked search with a comparison of its parents' settings. No weights are read.

    A parent is unlike the merges if a setting or its dtype differs from theirs, or its baseline,
    which is a recipe of the space, has the tower or the encoder of the host: this is not the
    parent itself.

    Raises:
        ConfigError: the tasks cannot be loaded.
    """
    from evomerge.merging.architecture.depth import built_config
    from evomerge.merging.backend import stored_dtype
    from evomerge.merging.tokenizers.plan import GENERATION, plan_tokenizer
    from evomerge.merging.tokenizers.templates import template_of

    config, checkpoints, use = checked.config, checked.checkpoints, _use_of(checked)
    baselines = checked.space.baselines()
    like = next(iter(baselines.values()))
    plan, giver = plan_tokenizer(like, checkpoints), checked.tokenizer_giver
    tokens, merged_tokens = _tokens(checked, like, plan, use)
    own: dict[str, Settings] = {}
    different: dict[str, list[str]] = {}
    for name, checkpoint in checkpoints.items():
        data, of_merge = built_config(checkpoint), _config_of_merge(checkpoint, checked, like, plan)
        generation = plan.files.get(GENERATION, checkpoints[checked.host].generation)
        own[name], merged = settings_of_configs(data, of_merge)
        own[name] |= settings_of_generation(data, checkpoint.generation, use) | tokens[name]
        merged |= settings_of_generation(of_merge, generation, use) | merged_tokens
        if use.encoders:
            merged |= encoder_settings(checkpoints[checked.host])
            # Only the modules of the merges can encode the texts of a parent without.
            lends = checkpoint.modules is None
            own[name] |= encoder_settings(checkpoints[checked.host] if lends else checkpoint)
        if use.templates:
            own[name][CHAT_TEMPLATE] = template_of(checkpoint)
            merged[CHAT_TEMPLATE] = template_of(checkpoints[giver])
        keys = dict.fromkeys((*own[name], *merged))
        different[name] = [key for key in keys if own[name].get(key) != merged.get(key)]
    told = dict.fromkeys(key for keys in different.values() for key in keys)
    of_tokens = {CHAT_TEMPLATE, *merged_tokens, *(key for item in tokens.values() for key in item)}
    settings = tuple(
        FrozenSetting(
            name=key,
            parents={name: _text(own[name].get(key)) for name in checkpoints},
            giver=giver if key in of_tokens else checked.host,
            is_host=key not in of_tokens or giver == checked.host,
        )
        for key in told
        if plan.rows is None or key not in _VOCABULARY
    )

    def is_unlike(name: str) -> bool:
        if checkpoints[name].lacks or sees_by_host(checked, name):
            return False  # only a merge has the head or the tower that it is scored with
        # A parent without a template of its own can be scored with that of the merges only.
        missing = [CHAT_TEMPLATE] if own[name].get(CHAT_TEMPLATE) is None else []
        rows = plan.rows
        return (
            any(key not in missing for key in different[name])
            or _has_parts_of_host(checkpoints[name], checkpoints[checked.host], baselines.get(name))
            or stored_dtype(checkpoints[name], config.dtype) != config.dtype
            or (rows is not None and rows.index.get(name) != tuple(range(rows.size)))
        )

    unlike = tuple(filter(is_unlike, config.parents))
    return replace(checked, settings=settings, unlike_merges=unlike)


def _has_parts_of_host(parent: Checkpoint, host: Checkpoint, baseline: Recipe | None) -> bool:
    """Whether the baseline of a parent has a tower or an encoder of the host, or lacks its own."""
    merged = {*baseline.modalities, *baseline.layers} if baseline else set()
    stacks = merged_stacks(host) if baseline else ()
    parts = {*parent.modalities, *host.modalities, *stacks}
    return parent is not host and not parts <= merged


def _use_of(checked: CheckedSearch) -> Use:
    tasks = list(checked.evaluator.info.tasks.values())
    functions = any(task.kind == "function" for task in tasks)
    return Use(
        uses_templates(checked.config),
        functions or any(task.kind == "generate_until" for task in tasks),
        any(task.is_sampled for task in tasks),
        functions,
        any(task.kind == "encoder" for task in tasks),
        any(task.kind == "classifier" for task in tasks),
    )


def _config_of_merge(
    checkpoint: Checkpoint, checked: CheckedSearch, like: Recipe, plan: TokenizerPlan
) -> dict[str, Any]:
    """Return `config.json` of the model that is the baseline of a parent."""
    from evomerge.merging.architecture.depth import built_config, merged_config

    host = checked.checkpoints[checked.host]
    recipe = parent_recipe(
        checkpoint.reference, len(checkpoint.decoder_stack), host.decoder_stack.prefix, like
    )
    try:
        return merged_config(recipe, checked.checkpoints, vocabulary=plan.rows)
    except RecipeError:  # this parent's layers do not fit the host's config
        return built_config(host)


def _tokens(
    checked: CheckedSearch, like: Recipe, plan: TokenizerPlan, use: Use
) -> tuple[dict[str, Settings], Settings]:
    """Return the settings of each parent's tokenizer, and those of the merges' tokenizer.

    A parent without a tokenizer has those of the merges: only their tokenizer can encode its texts.
    If all have the same files, nothing is loaded, and there are no settings.
    """
    from evomerge.merging.backend import tokenizer, tokenizer_of

    def settings(loaded: Any) -> Settings:
        functions = use.functions or use.encoders or use.classifiers
        found = settings_of_tokenizer(loaded, texts=use.texts, functions=functions)
        if use.encoders and not use.functions:
            del found["model_max_length"]  # which is a part of `max_seq_length`
        return found

    files = {name: _tokenizer_files(item) for name, item in checked.checkpoints.items()}
    same = None if plan.files else files[checked.tokenizer_giver]
    others = [name for name, own in files.items() if own and own != same]
    merged = settings(tokenizer(checked.checkpoints, like)) if others else {}
    found = dict.fromkeys(checked.checkpoints, merged)
    for name in others:
        try:
            found[name] = settings(tokenizer_of(checked.checkpoints[name]))
        except CheckpointError:
            found[name] = {"tokenizer.model": "cannot be loaded"}
    return found, merged


def _tokenizer_files(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the digests of the files of a tokenizer, by file name."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in checkpoint.companions
        if file.name in TOKENIZER_FILES and not file.name.startswith(CHAT_TEMPLATE)
    }


def _text(value: Any) -> str:
    """Return a value as a text that is short, and different for different values."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    if len(text) <= _LONGEST and text == printable(text, _LONGEST):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    start = printable(" ".join(text.split())[: _LONGEST // 2], _LONGEST)
    return f"{start!r}... ({len(text):,} characters, SHA-256 {digest}...)"
