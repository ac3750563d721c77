"""By which settings the parents of a search differ, as far as these change results.

A merge has one config, one generation config, one tokenizer and one chat template; its parents may
have others. What counts is what transformers makes of the files: a key that is missing has its
default. A setting that changes no score is left out: where a file comes from, dropout, the dtype of
the config, and whatever concerns generation or chat templates where the tasks use neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evomerge.config.schema import FrozenSetting
from evomerge.errors import CheckpointError, RecipeError, printable
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.tokenizer_settings import (
    CHAT_TEMPLATE,
    VOCABULARY,
    Settings,
    settings_of,
    tokenizer_files,
)
from evomerge.space.paths.frame import parent_recipe

if TYPE_CHECKING:
    from evomerge.merging.tokenizers.plan import TokenizerPlan

_NO_EFFECT = frozenset(
    {
        *("name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"),
        *("use_cache", "return_dict", "torchscript", "use_bfloat16", "gradient_checkpointing"),
        *("output_attentions", "output_hidden_states", "output_router_logits"),
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
        *("task_specific_params", "initializer_range", "initializer_factor", "auto_map"),
        *("chunk_size_feed_forward", "pretraining_tp", "router_aux_loss_coef"),
        *("unsloth_version", "unsloth_fixed", "layerdrop"),
        # Tokens that end a text are settings of generation; the plan of tokenizers tells of rows.
        *("bos_token_id", "eos_token_id", "pad_token_id", "vocab_size"),
    }
)
"""Last parts of the names of keys of a config that change no score."""

_NO_EFFECT_PARTS = ("dropout", "pdrop", "init_std")

_BY_LAYER = {"layer_types": ("max_window_layers", "sliding_window_pattern", "use_sliding_window")}
"""Key with a setting of each layer -> the keys from which transformers has computed it."""

_LONGEST = 48  # characters of a value in a sentence


def with_settings(checked: CheckedSearch) -> CheckedSearch:
    """Return a checked search with a comparison of its parents' settings. No weights are read.

    A parent is unlike the merges if a setting or its dtype differs from theirs, so that its
    baseline, which is a recipe of the space, is not the parent itself.

    Raises:
        ConfigError: the tasks cannot be loaded.
    """
    from evomerge.merging.backend import stored_dtype
    from evomerge.merging.tokenizers.plan import plan_tokenizer
    from evomerge.merging.tokenizers.templates import template_of

    config, checkpoints = checked.config, checked.checkpoints
    like = next(iter(checked.space.baselines().values()))
    plan = plan_tokenizer(like, checkpoints)
    use = _Use.of(checked)
    giver = config.tokenizer if config.tokenizer in checkpoints else checked.host
    merges = _Merges(checked, like, plan, giver, use)
    tokens = {name: merges.tokens_of(item) for name, item in checkpoints.items()}
    own: dict[str, Settings] = {}
    different: dict[str, list[str]] = {}
    for name, checkpoint in checkpoints.items():
        found = tokens[name]
        own[name] = _model(checkpoint, use) | (merges.tokens if found is None else found)
        merged = merges.model(checkpoint) | merges.tokens
        if use.templates:
            own[name][CHAT_TEMPLATE] = template_of(checkpoint)
            merged[CHAT_TEMPLATE] = template_of(checkpoints[giver])
        keys = dict.fromkeys((*own[name], *merged))
        different[name] = [key for key in keys if own[name].get(key) != merged.get(key)]
    told = dict.fromkeys(key for keys in different.values() for key in keys)
    if plan.rows is not None:
        told = dict.fromkeys(key for key in told if key not in VOCABULARY)
    of_tokens = {
        CHAT_TEMPLATE,
        *merges.tokens,
        *(key for item in tokens.values() for key in item or ()),
    }
    givers = {key: giver if key in of_tokens else checked.host for key in told}
    settings = tuple(
        FrozenSetting(
            name=key,
            parents={name: _text(own[name].get(key)) for name in checkpoints},
            giver=givers[key],
            is_host=givers[key] == checked.host,
        )
        for key in told
    )

    def is_unlike(name: str) -> bool:
        # A parent without a template of its own can be scored with that of the merges only.
        missing = [CHAT_TEMPLATE] if own[name].get(CHAT_TEMPLATE) is None else []
        return (
            any(key not in missing for key in different[name])
            or stored_dtype(checkpoints[name], config.dtype) != config.dtype
            or not _has_own_rows(plan, name)
        )

    unlike = tuple(filter(is_unlike, config.parents))
    return replace(checked, settings=settings, unlike_merges=unlike)


@dataclass(frozen=True)
class _Use:
    """What the scores of a search depend on.

    Attributes:
        templates: whether prompts are made by chat templates.
        texts: whether texts are generated, and `sampled`, whether at random.
        functions: whether functions of the user score models, which may use anything.
    """

    templates: bool
    texts: bool
    sampled: bool
    functions: bool

    @classmethod
    def of(cls, checked: CheckedSearch) -> _Use:
        tasks = list(checked.evaluator.info.tasks.values())
        functions = any(task.kind == "function" for task in tasks)
        return cls(
            bool(checked.config.evaluation.chat_template) or functions,
            functions or any(task.kind == "generate_until" for task in tasks),
            any(task.is_sampled for task in tasks),
            functions,
        )


class _Merges:
    """The settings of the merges, for the comparison with those of a parent.

    Args:
        checked: the search.
        like: the recipe of a baseline.
        plan: its tokenizer.
        giver: the parent that the tokenizer comes from.
        use: what scores depend on.

    Attributes:
        tokens: the settings of the tokenizer; empty until a parent has another one.
    """

    def __init__(
        self, checked: CheckedSearch, like: Recipe, plan: TokenizerPlan, giver: str, use: _Use
    ) -> None:
        self._problem, self._like, self._plan, self._use = checked, like, plan, use
        self._giver, self._host = giver, checked.checkpoints[checked.host]
        self.tokens: Settings = {}

    def model(self, checkpoint: Checkpoint) -> Settings:
        """Return the settings of the model that is the baseline of a parent."""
        from evomerge.merging.architecture.depth import built_config, merged_config
        from evomerge.merging.tokenizers.plan import GENERATION

        checkpoints, stack = self._problem.checkpoints, self._host.main.prefix
        recipe = parent_recipe(checkpoint.reference, len(checkpoint.main), stack, self._like)
        try:
            data = merged_config(recipe, checkpoints, vocabulary=self._plan.rows)
        except RecipeError:  # this parent's layers do not fit the host's config
            data = built_config(self._host)
        return _of_config(data) | _of_generation(
            data, self._plan.files.get(GENERATION, self._host.generation), self._use
        )

    def tokens_of(self, checkpoint: Checkpoint) -> Settings | None:
        """Return the settings of a parent's tokenizer; None: the merges have the same tokenizer.

        So it is also for a parent without a tokenizer, whose texts only that one can encode.
        """
        from evomerge.merging.backend import tokenizer, tokenizer_of

        own, giver = tokenizer_files(checkpoint), self._problem.checkpoints[self._giver]
        if not own or (not self._plan.files and own == tokenizer_files(giver)):
            return None
        if not self.tokens:
            self.tokens = self._settings(tokenizer(self._problem.checkpoints, self._like))
        try:
            return self._settings(tokenizer_of(checkpoint))
        except CheckpointError:
            return {"tokenizer.model": "cannot be loaded"}

    def _settings(self, tokenizer: Any) -> Settings:
        return settings_of(tokenizer, texts=self._use.texts, functions=self._use.functions)


def _model(checkpoint: Checkpoint, use: _Use) -> Settings:
    """Return the settings that a parent's own config and generation config have."""
    from evomerge.merging.architecture.depth import built_config

    data = built_config(checkpoint)
    return _of_config(data) | _of_generation(data, checkpoint.generation, use)


def _of_config(data: Mapping[str, Any]) -> Settings:
    """Return the settings in a `config.json` that change what a model computes."""
    from evomerge.merging.architecture.loading import transformers_config

    with suppress(CheckpointError):  # transformers may not know the type of a parent
        data = transformers_config(data).to_dict()
    found = {}
    for name, value in _flat(data):
        last = name.rpartition(".")[2]
        idle = last in _NO_EFFECT or any(part in last for part in _NO_EFFECT_PARTS)
        if value is not None and not idle and not last.startswith("_"):
            found[name] = value
    for key, causes in _BY_LAYER.items():
        if key in found:
            found = {name: value for name, value in found.items() if name not in causes}
    return found


def _of_generation(data: Mapping[str, Any], generation: str | None, use: _Use) -> Settings:
    """Return the settings of generation that change texts."""
    from evomerge.evaluation.inference.generation_config import changes_texts
    from evomerge.merging.architecture.generation import generation_config

    if not use.texts:
        return {}
    try:
        settings = generation_config(data, generation)
    except CheckpointError:  # scoring this model fails, which is no setting
        return {"generation_config": "refused by transformers"}
    if settings is None:
        return {}
    return {
        f"generation_config.{name}": value
        for name, value in settings.to_dict().items()
        if value is not None
        and not name.startswith("_")
        and name != "transformers_version"
        and (use.functions or changes_texts(name, (value,), sampled=use.sampled))
    }


def _flat(data: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, with the names of all keys that lead to them."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _has_own_rows(plan: TokenizerPlan, parent: str) -> bool:
    """Whether embeddings and head of a parent's baseline have the parent's rows, in its order."""
    rows = plan.rows
    return rows is None or rows.index.get(parent) == tuple(range(rows.size))


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
