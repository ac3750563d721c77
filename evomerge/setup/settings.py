"""By which settings the parents of a search differ, as far as these change results.

A merge has one config, one generation config, one tokenizer and one chat template; its parents may
have others. What counts is what transformers makes of the files: a key that is missing has its
default. Keys of a config are compared by exclusion: all of them, but for those that are known to
change no score, so that a key which is new to these lists is named rather than missed. Left out are
where a file comes from, dropout, the dtype of the config, and whatever concerns generation or chat
templates where the tasks use neither.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from evomerge.config.frozen import FrozenSetting
from evomerge.errors import CheckpointError, RecipeError, printable
from evomerge.models.checkpoint import SECTIONS, Checkpoint
from evomerge.models.encoder_decoder import merged_stacks
from evomerge.models.files import TOKENIZER_FILES
from evomerge.recipe import Recipe
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.encoders import encoder_settings
from evomerge.setup.modalities import sees_by_host
from evomerge.setup.tasks import uses_templates
from evomerge.space.paths.frame import parent_recipe

if TYPE_CHECKING:
    from evomerge.merging.tokenizers.plan import TokenizerPlan

Settings: TypeAlias = dict[str, Any]
"""Name of a setting -> its value."""

CHAT_TEMPLATE = "chat_template"

_OF_CONFIG_WITHOUT_EFFECT = {
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
"""Last parts of the names of keys of a config that change no score."""

_OF_IMAGES = re.compile(r"(^|\.)(model_type|mrope_\w+)$")
"""Keys of a language model that sees which do not count for texts; of types `type_notes` tells."""

_PARTS_WITHOUT_EFFECT = ("dropout", "pdrop", "init_std")

_BY_LAYER = {"layer_types": ("max_window_layers", "sliding_window_pattern", "use_sliding_window")}
"""Key with a setting of each layer -> the keys from which transformers has computed it."""

_VOCABULARY = {
    *("tokenizer.model", "tokenizer.added_tokens", "bos_token", "eos_token", "pad_token"),
    *("unk_token", "cls_token", "sep_token"),
}
"""Settings of which the plan of a tokenizer with matched rows tells."""

_OF_A_CALL = ("version", "truncation", "padding")
"""Parts of `tokenizer.json` that lm-eval does not use."""

_WITHOUT_JSON = (
    *("add_bos_token", "add_eos_token", "add_prefix_space", "do_lower_case", "keep_accents"),
    *("legacy", "remove_space", "split_by_punct", "strip_accents"),
)
"""Attributes that change the tokens of a tokenizer which has no `tokenizer.json`."""

_OF_FUNCTIONS = ("padding_side", "truncation_side", "model_input_names")
"""Attributes that lm-eval does not use: it pads and truncates itself, and takes only the ids."""

_CLEAN_UP = "clean_up_tokenization_spaces"
_FOR_BPE = f"{_CLEAN_UP}_for_bpe_even_though_it_will_corrupt_output"

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
        own[name], merged = _of_configs(data, of_merge)
        own[name] |= _of_generation(data, checkpoint.generation, use) | tokens[name]
        merged |= _of_generation(of_merge, generation, use) | merged_tokens
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


class _Use(NamedTuple):
    """What the scores of a search depend on."""

    templates: bool  # prompts are made by chat templates
    texts: bool  # texts are generated
    sampled: bool  # tokens of texts are drawn at random
    functions: bool  # functions of the user score models, which may use anything
    encoders: bool  # texts are encoded by the modules of sentence encoders
    classifiers: bool  # texts are classified


def _use_of(checked: CheckedSearch) -> _Use:
    tasks = list(checked.evaluator.info.tasks.values())
    functions = any(task.kind == "function" for task in tasks)
    return _Use(
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


def _of_configs(own: Mapping[str, Any], merged: Mapping[str, Any]) -> tuple[Settings, Settings]:
    """Return the settings in the configs of a parent and of the merge, by the names in the merge.

    Of a text model and a vision-language model, only those of the language model are compared.
    """
    own, merged = _complete(own), _complete(merged)
    section, of_merge = _section(own), _section(merged)
    if bool(section) == bool(of_merge):
        return _of_config(own), _of_config(merged)
    if of_merge:
        own, merged = {of_merge: own}, {of_merge: merged[of_merge]}
    elif section:
        own = own[section]
    found = [
        {name: value for name, value in _of_config(data).items() if not _OF_IMAGES.search(name)}
        for data in (own, merged)
    ]
    return found[0], found[1]


def _complete(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config with transformers' defaults, if transformers knows its type."""
    from evomerge.merging.architecture.loading import transformers_config

    with suppress(CheckpointError):
        return dict(transformers_config(data).to_dict())
    return data


def _section(data: Mapping[str, Any]) -> str | None:
    return next((key for key in SECTIONS if isinstance(data.get(key), dict)), None)


def _of_config(data: Mapping[str, Any]) -> Settings:
    """Return the settings in a complete config that change what a model computes."""
    found = {}
    for name, value in _flat(data):
        words = name.split(".")
        last = words[-1]
        idle = not _OF_CONFIG_WITHOUT_EFFECT.isdisjoint(words) or any(
            part in last for part in _PARTS_WITHOUT_EFFECT
        )
        if value is not None and not idle and not last.startswith("_"):
            found[name] = value
    for key, causes in _BY_LAYER.items():
        if key in found:
            found = {name: value for name, value in found.items() if name not in causes}
    return found


def _of_generation(data: Mapping[str, Any], generation: str | None, use: _Use) -> Settings:
    """Return the settings of generation that change texts."""
    from evomerge.evaluation.inference.generation_config import changes_texts
    from evomerge.merging.architecture.loading import generation_config

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
        and (use.functions or changes_texts(name, value, sampled=use.sampled))
    }


def _tokens(
    checked: CheckedSearch, like: Recipe, plan: TokenizerPlan, use: _Use
) -> tuple[dict[str, Settings], Settings]:
    """Return the settings of each parent's tokenizer, and those of the merges' tokenizer.

    A parent without a tokenizer has those of the merges: only their tokenizer can encode its texts.
    If all have the same files, nothing is loaded, and there are no settings.
    """
    from evomerge.merging.backend import tokenizer, tokenizer_of

    def settings(loaded: Any) -> Settings:
        functions = use.functions or use.encoders or use.classifiers
        found = settings_of(loaded, texts=use.texts, functions=functions)
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


def settings_of(tokenizer: Any, *, texts: bool, functions: bool) -> Settings:
    """Return the settings of a loaded tokenizer that change results.

    Args:
        texts: whether texts are generated, so that it counts how tokens become a text.
        functions: whether functions of the user score models, or texts are encoded or classified:
            all use what lm-eval does not.
    """
    core = getattr(tokenizer, "backend_tokenizer", None)
    names = ["model_max_length", *(_OF_FUNCTIONS if functions else ())]
    if core is None:
        parts: Mapping[str, Any] = {"vocabulary": tokenizer.get_vocab()}
        names += _WITHOUT_JSON
    else:
        parts = {k: v for k, v in json.loads(core.to_str()).items() if k not in _OF_A_CALL}
    found = {f"tokenizer.{name}": value for name, value in parts.items()}
    found |= {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    found |= {name: getattr(tokenizer, name, None) for name in names}
    if texts:
        # transformers 5 ignores the setting where the model of the tokenizer is BPE, unless a
        # second one says otherwise.
        is_bpe = core is not None and type(core.model).__name__ == "BPE"
        ignored = is_bpe and not getattr(tokenizer, _FOR_BPE, True)
        found[_CLEAN_UP] = bool(getattr(tokenizer, _CLEAN_UP, False)) and not ignored
    return found


def _flat(data: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, with the names of all keys that lead to them."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


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
