"""Which generation configs our own generation supports, setting by setting.

lm-eval generates with transformers' `generate`, which reads `generation_config.json`. Our own
generation (`generation.py`, `sampling.py`) implements few of its settings. It may be used only if
each setting has a value that is listed here: one that cannot change a text, or that is implemented.
With any other value, and with a setting that is not listed, lm-eval itself generates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

_Test: TypeAlias = Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tokens(value: Any) -> bool:
    return all(map(_token, value)) if isinstance(value, list) and value else _token(value)


def _only(value: float) -> _Test:
    return lambda found: isinstance(found, (bool, int, float)) and found == value


_ENDS = "eos_token_id"
_NO_CUT: Mapping[str, tuple[Any, ...]] = {
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "top_h": (None,),
}
"""Settings of drawing that `Sampling` does not have, with the values at which they do nothing."""

_DRAWN = frozenset({"top_k", "top_p", "min_p", *_NO_CUT})

SUPPORTED: Mapping[str, _Test] = {
    name: allows
    for names, allows in (
        (_ENDS, _tokens),  # our own generation implements it
        # lm-eval passes values of its own.
        ("max_length temperature", _number),
        ("do_sample use_cache", _flag),
        ("pad_token_id", _token),
        # Read only where tokens are drawn.
        (" ".join(_DRAWN), _number),
        # Read only with several beams.
        ("early_stopping", lambda value: _flag(value) or value == "never"),
        ("length_penalty diversity_penalty", _number),
        # Read only with an assistant model or prompt lookup.
        ("num_assistant_tokens assistant_confidence_threshold", _number),
        ("assistant_lookbehind target_lookbehind max_matching_ngram_size", _number),
        ("num_assistant_tokens_schedule", lambda value: isinstance(value, str)),
        # Read only without a prompt, with an encoder, with a static cache, for other results.
        ("bos_token_id decoder_start_token_id", _token),
        ("disable_compile output_scores output_logits", _flag),
        # These values do nothing.
        ("repetition_penalty encoder_repetition_penalty guidance_scale", _only(1)),
        ("num_beams num_beam_groups num_return_sequences", _only(1)),
        ("min_length no_repeat_ngram_size encoder_no_repeat_ngram_size", _only(0)),
        ("renormalize_logits remove_invalid_values token_healing", _only(False)),
        ("use_mtp is_assistant low_memory return_dict_in_generate", _only(False)),
        ("output_attentions output_hidden_states", _only(False)),
        # Where the config comes from.
        ("transformers_version _from_model_config", lambda value: True),
        ("_commit_hash _original_object_hash", lambda value: True),
    )
    for name in names.split()
}
"""Setting -> which values our own generation supports, besides None and the default."""


def unsupported_setting(settings: Any, *, sampled: bool = False) -> str | None:
    """Return a setting with a value that our own generation does not support, or None.

    Args:
        settings: a generation config of transformers.
        sampled: whether tokens are drawn at random.
    """
    default = vars(type(settings)())
    name: str
    for name, value in vars(settings).items():
        if sampled and value not in _NO_CUT.get(name, (value,)):
            return name
        if value is None or (name in default and value == default[name]):
            continue
        if name not in SUPPORTED or not SUPPORTED[name](value):
            return name
    return None
