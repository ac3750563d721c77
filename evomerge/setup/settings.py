"""In what the parents of a search differ from its merges beside their weights.

A merge has one config, one generation config, one tokenizer and one chat template; its parents may
have others. A parent whose own files differ is scored as itself on validation and test documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.encoder_decoder import merged_stacks
from evomerge.models.files import TOKENIZER_FILES
from evomerge.parsing.texts import json_value
from evomerge.recipe import Recipe
from evomerge.report.words import listed
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.encoders import encoder_settings
from evomerge.setup.modalities import sees_by_host
from evomerge.setup.tasks import uses_templates

_WITHOUT_EFFECT = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
)
"""Keys of a config that change no score."""

_MOST_NAMED = 6  # keys in a sentence


def with_unlike_parents(checked: CheckedSearch) -> CheckedSearch:
    """Return a checked search that knows which parents are unlike its merges."""
    different = differences(checked)
    unlike = tuple(name for name in checked.config.parents if different[name])
    return replace(checked, unlike_merges=unlike)


def setting_notes(checked: CheckedSearch, names: Mapping[str, str]) -> list[str]:
    """Return a sentence for each parent that differs; `names`: reference -> name in a sentence."""
    return [
        f"{names[name]} is not like the merges in {_few(keys)}; its final scores are of the parent "
        "as it is."
        for name, keys in differences(checked).items()
        if keys and name in checked.config.parents
    ]


def _few(keys: list[str]) -> str:
    more = len(keys) - _MOST_NAMED
    return listed([*keys[:_MOST_NAMED], *([f"{more} more"] if more > 0 else [])])


def differences(checked: CheckedSearch) -> dict[str, list[str]]:
    """Return for each parent what of it is not that of the merges; no weights are read."""
    from evomerge.merging.backend import stored_dtype
    from evomerge.merging.tokenizers.plan import GENERATION, plan_tokenizer
    from evomerge.merging.tokenizers.templates import template_of

    config, checkpoints = checked.config, checked.checkpoints
    host, giver = checkpoints[checked.host], checkpoints[checked.tokenizer_giver]
    baselines = checked.space.baselines()
    plan = plan_tokenizer(next(iter(baselines.values())), checkpoints)
    generation = plan.files.get(GENERATION, host.generation)

    def of(name: str, parent: Checkpoint) -> list[str]:
        if parent.lacks or sees_by_host(checked, name):
            return []  # only a merge has the head or the tower that it is scored with
        own, merged = _settings(parent.config), _settings(host.config)
        found = [key for key in {**own, **merged} if own.get(key) != merged.get(key)]
        if config.encoders and parent.modules is not None:
            ours, theirs = encoder_settings(parent), encoder_settings(host)
            found += [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        if _generation(parent.generation) != _generation(generation):
            found.append("generation_config.json")
        files, template = _tokenizer_files(parent), template_of(parent)
        rows = plan.rows
        is_other = rows is not None and rows.index.get(name) != tuple(range(rows.size))
        if files and (is_other or plan.files or files != _tokenizer_files(giver)):
            found.append("tokenizer")
        if uses_templates(config) and template not in (None, template_of(giver)):
            found.append("chat template")
        if _has_parts_of_host(parent, host, baselines.get(name)):
            found.append("the parts that only the host gives to merges")
        if stored_dtype(parent, config.dtype) != config.dtype:
            found.append("dtype")
        return found

    return {name: of(name, parent) for name, parent in checkpoints.items()}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in config.items() if key not in _WITHOUT_EFFECT}


def _generation(text: str | None) -> Any:
    """Return the content of a generation config without what changes no text."""
    content = json_value(text or "{}", "generation_config.json", CheckpointError)
    return _settings(content) if isinstance(content, dict) else content


def _tokenizer_files(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the digests of the files of a tokenizer, by file name."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in checkpoint.companions
        if file.name in TOKENIZER_FILES and not file.name.startswith("chat_template")
    }


def _has_parts_of_host(parent: Checkpoint, host: Checkpoint, baseline: Recipe | None) -> bool:
    """Whether the baseline of a parent has a tower or an encoder of the host, or lacks its own."""
    merged = {*baseline.modalities, *baseline.layers} if baseline else set()
    stacks = merged_stacks(host) if baseline else ()
    parts = {*parent.modalities, *host.modalities, *stacks}
    return parent is not host and not parts <= merged
