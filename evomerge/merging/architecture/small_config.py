"""Making a config small: the same architecture and depth, but a model of a few thousand weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SMALL_SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim"), 4),
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "vocab_size": 64,
}
"""Sizes of the small model, by the key of the config; architectures name them differently."""


def small_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config of the same architecture and depth, with small sizes and epsilons of 1e-12.

    With such epsilons, norms ignore the size of their input.
    """
    small: dict[str, Any] = {}
    for key, value in config.items():
        if key in SMALL_SIZES and isinstance(value, int):
            small[key] = SMALL_SIZES[key]
        elif "eps" in key and isinstance(value, float):
            small[key] = 1e-12
        elif "dropout" in key or key.endswith("_pdrop"):
            small[key] = 0.0
        elif key.endswith("_token_id"):
            small[key] = None
        elif key in ("rope_scaling", "rope_parameters"):
            small[key] = _plain_rope(value)
        elif key not in ("torch_dtype", "dtype", "quantization_config", "tie_word_embeddings"):
            small[key] = value
    groups = config.get("num_key_value_heads")
    if groups == 1 or (groups and groups == config.get("num_attention_heads")):
        small["num_key_value_heads"] = 1 if groups == 1 else SMALL_SIZES["num_attention_heads"]
    if (
        "qk_rope_head_dim" in small and "head_dim" in small
    ):  # here `head_dim` is the size of the rotary part
        small["head_dim"] = small["qk_rope_head_dim"]
    return small


def _plain_rope(value: Any) -> Any:
    """Return rotary settings without scaling of frequencies, which has lists as long as a head."""
    if not isinstance(value, Mapping):
        return None
    if any(isinstance(item, Mapping) for item in value.values()):
        return {key: _plain_rope(item) for key, item in value.items()}
    kept = {key: value[key] for key in ("rope_theta", "partial_rotary_factor") if key in value}
    return {"rope_type": "default", **kept} if kept else None
