"""Which generation configs our own generation supports, setting by setting.

lm-eval generates with transformers' `generate`, which reads `generation_config.json`. Our own
generation (`generation.py`, `sampling.py`) implements few of its settings. It may be used only if
each setting has a value that is listed here: one that cannot change a text, or that is implemented.
With any other value, and with a setting that is not listed, lm-eval itself generates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_PASSED = "lm-eval passes a value of its own to `generate`"
_IMPLEMENTED = "our own generation implements it"
_DRAWN = "read only where tokens are drawn; then sampling implements it"
_DRAWN_IDLE = "read only where tokens are drawn; then lm-eval generates, if it is not idle"
_BEAMS = "read only with several beams"
_ASSISTED = "read only with an assistant model or prompt lookup"
_IDLE = "does nothing with this value"
_NOTED = "says where the config comes from"


@dataclass(frozen=True)
class Supported:
    """The values of a setting with which our own generation gives the texts of `generate`.

    Attributes:
        allows: whether a value is one of them.
        reason: why they need nothing, or nothing more.
    """

    allows: Callable[[Any], bool]
    reason: str


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tokens(value: Any) -> bool:
    return all(map(_token, value)) if isinstance(value, list) and value else _token(value)


def _only(value: float) -> Callable[[Any], bool]:
    return lambda found: isinstance(found, (bool, int, float)) and found == value


SUPPORTED: Mapping[str, Supported] = {
    name: Supported(allows, reason)
    for names, allows, reason in (
        ("max_length temperature", _number, _PASSED),
        ("do_sample use_cache", _flag, _PASSED),
        ("pad_token_id", _token, _PASSED),
        ("eos_token_id", _tokens, _IMPLEMENTED),
        ("top_k top_p min_p", _number, _DRAWN),
        ("typical_p epsilon_cutoff eta_cutoff top_h", _number, _DRAWN_IDLE),
        ("early_stopping", lambda value: _flag(value) or value == "never", _BEAMS),
        ("length_penalty diversity_penalty", _number, _BEAMS),
        ("num_assistant_tokens assistant_confidence_threshold", _number, _ASSISTED),
        ("assistant_lookbehind target_lookbehind max_matching_ngram_size", _number, _ASSISTED),
        ("num_assistant_tokens_schedule", lambda value: isinstance(value, str), _ASSISTED),
        ("bos_token_id", _token, "read only if there is no prompt"),
        ("decoder_start_token_id", _token, "read only by models with an encoder"),
        ("disable_compile", _flag, "read only with a static cache"),
        ("output_scores output_logits", _flag, "read only with `return_dict_in_generate`"),
        ("repetition_penalty encoder_repetition_penalty guidance_scale", _only(1), _IDLE),
        ("num_beams num_beam_groups num_return_sequences", _only(1), _IDLE),
        ("min_length no_repeat_ngram_size encoder_no_repeat_ngram_size", _only(0), _IDLE),
        ("renormalize_logits remove_invalid_values token_healing", _only(False), _IDLE),
        ("use_mtp is_assistant low_memory", _only(False), _IDLE),
        ("output_attentions output_hidden_states", _only(False), _IDLE),
        ("return_dict_in_generate", _only(False), _IDLE),
        ("transformers_version _from_model_config", lambda value: True, _NOTED),
        ("_commit_hash _original_object_hash", lambda value: True, _NOTED),
    )
    for name in names.split()
}
"""Setting -> the values that our own generation supports, besides None and the default."""

_NO_CUT: Mapping[str, tuple[Any, ...]] = {
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "top_h": (None,),
}
"""Settings of drawing that `Sampling` does not have, with the values at which they do nothing."""


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
        known = SUPPORTED.get(name)
        if known is None or not known.allows(value):
            return name
    return None


def changes_texts(name: str, values: Iterable[Any], *, sampled: bool) -> bool:
    """Return whether texts may differ between models with these values of one setting.

    Args:
        name: the setting.
        values: its values; None: it is not set.
        sampled: whether tokens are drawn at random.
    """
    known = SUPPORTED.get(name)
    if known is None or known.reason == _IMPLEMENTED:
        return True
    if sampled and known.reason in (_DRAWN, _DRAWN_IDLE):
        return True
    return not all(value is None or known.allows(value) for value in values)
