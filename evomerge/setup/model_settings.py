"""Which settings of a model change its results: those in its configs and of its tokenizer.

What counts is what transformers makes of the files: a key that is missing has its default. Keys of
a config are taken by exclusion: all of them, but for those that are known to change no score, so
that a key which is new to these lists is named rather than missed. Left out are where a file comes
from, dropout, the dtype of the config, and whatever concerns generation where the tasks use none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import SECTIONS

Settings: TypeAlias = dict[str, Any]
"""Name of a setting -> its value."""

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


class Use(NamedTuple):
    """What the scores of a search depend on."""

    templates: bool  # prompts are made by chat templates
    texts: bool  # texts are generated
    sampled: bool  # tokens of texts are drawn at random
    functions: bool  # functions of the user score models, which may use anything
    encoders: bool  # texts are encoded by the modules of sentence encoders
    classifiers: bool  # texts are classified


def settings_of_configs(
    own: Mapping[str, Any], merged: Mapping[str, Any]
) -> tuple[Settings, Settings]:
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


def settings_of_generation(data: Mapping[str, Any], generation: str | None, use: Use) -> Settings:
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


def settings_of_tokenizer(tokenizer: Any, *, texts: bool, functions: bool) -> Settings:
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
