"""The settings of a tokenizer that change results.

They are compared by exclusion: whatever transformers has made of the files, but for what is known
to be without effect, so that a setting which is new to this list is named rather than missed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import TOKENIZER_FILES
from evomerge.models.safetensors import read_json

Settings: TypeAlias = dict[str, Any]
"""Name of a setting -> its value."""

CHAT_TEMPLATE = "chat_template"

VOCABULARY = (
    *("tokenizer.model", "tokenizer.added_tokens", "bos_token", "eos_token", "pad_token"),
    *("unk_token", "cls_token", "sep_token"),
)
"""Settings of which the plan of a tokenizer with matched rows tells."""

_NOT_OF_THE_TOKENIZER = frozenset(
    {
        *("name_or_path", "tokenizer_file", "special_tokens_map_file", "vocab_file", "is_local"),
        *("local_files_only", "processor_class", "transformers_version", "auto_map", CHAT_TEMPLATE),
    }
)
"""Keys of `tokenizer_config.json` that change no tokens."""

_OF_A_CALL = ("version", "truncation", "padding")
"""Parts of `tokenizer.json` that lm-eval does not use."""

_NO_EFFECT = _NOT_OF_THE_TOKENIZER | {
    *("init_inputs", "init_kwargs", "verbose", "deprecation_warnings", "backend", "files_loaded"),
    *("cache", "use_default_system_prompt", "grounded_generation_template", "tool_use_template"),
}
"""Attributes of tokenizers of transformers that change no score."""

_OF_FUNCTIONS = frozenset({"padding_side", "truncation_side", "model_input_names"})
"""Attributes that lm-eval does not use: it pads and truncates itself, and takes only the ids."""

_BUILT_IN = frozenset(
    {
        *("add_prefix_space", "trim_offsets", "legacy", "legacy_behaviour", "split_by_punct"),
        *("do_lower_case", "strip_accents", "tokenize_chinese_chars", "clean_text"),
        *("keep_accents", "remove_space", "wordpieces_prefix"),
    }
)
"""Attributes from which transformers has made parts of `tokenizer.json`, which count themselves."""

_CLEAN_UP = "clean_up_tokenization_spaces"
_FOR_BPE = f"{_CLEAN_UP}_for_bpe_even_though_it_will_corrupt_output"


def tokenizer_files(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the files of a tokenizer say of its tokens, by file name."""
    found: dict[str, Any] = {}
    for file in checkpoint.companions:
        if file.name not in TOKENIZER_FILES or file.name.startswith(CHAT_TEMPLATE):
            continue
        if file.name == "tokenizer_config.json":
            content = read_json(file).items()
            found[file.name] = {k: v for k, v in content if k not in _NOT_OF_THE_TOKENIZER}
        else:
            found[file.name] = hashlib.sha256(file.read_bytes()).digest()
    return found


def settings_of(tokenizer: Any, *, texts: bool, functions: bool) -> Settings:
    """Return the settings of a loaded tokenizer that change results.

    Args:
        tokenizer: the tokenizer.
        texts: whether texts are generated, so that it counts how tokens become a text.
        functions: whether functions of the user score models, which may use anything.
    """
    core = getattr(tokenizer, "backend_tokenizer", None)
    parts: Mapping[str, Any] = {"vocabulary": tokenizer.get_vocab()}
    idle = _NO_EFFECT | {_CLEAN_UP, _FOR_BPE}
    if core is not None:
        parts = {k: v for k, v in json.loads(core.to_str()).items() if k not in _OF_A_CALL}
        idle |= _BUILT_IN
    if not functions:
        idle |= _OF_FUNCTIONS
    found = {
        **{f"tokenizer.{name}": value for name, value in parts.items()},
        **{name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        **{
            name: value if isinstance(value, str | int | float) else repr(value)
            for name, value in vars(tokenizer).items()
            if name not in idle and not name.startswith("_") and _is_plain(value)
        },
    }
    if texts:
        found[_CLEAN_UP] = _cleans_up(tokenizer, core)
    return found


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, or a collection, of which `repr` tells everything."""
    return isinstance(value, str | int | float | list | tuple | dict)


def _cleans_up(tokenizer: Any, core: Any) -> bool:
    """Whether decoding takes away spaces before punctuation marks.

    Since version 5, transformers ignores the setting where the model of the tokenizer is BPE,
    unless a second one says otherwise.
    """
    ignored = (
        core is not None
        and type(core.model).__name__ == "BPE"
        and not getattr(tokenizer, _FOR_BPE, True)
    )
    return bool(getattr(tokenizer, _CLEAN_UP, False)) and not ignored
