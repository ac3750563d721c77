"""Small configs of 157 architectures of transformers, made from transformers' own defaults."""

import inspect
from typing import Any

from transformers.models.auto import configuration_auto, modeling_auto

_OF_SIZE = {
    128: "vocab_size vocab_size_per_layer_input",
    32: "hidden_size n_embd d_model word_embed_proj_dim embedding_size lru_width",
    48: """
        intermediate_size n_inner d_ff ffn_dim decoder_ffn_dim encoder_ffn_dim
        shared_intermediate_size mlp_hidden_size ffn_hidden_size
    """,
    16: """
        moe_intermediate_size shared_expert_intermediate_size mamba_d_head mamba_chunk_size
        chunk_size attention_window_size sliding_window
    """,
    4: """
        num_hidden_layers num_attention_heads n_layer n_layers n_head n_heads num_heads
        decoder_layers encoder_layers decoder_attention_heads encoder_attention_heads num_layers
        num_decoder_layers rotary_dim state_size conv_kernel num_experts num_local_experts
        n_routed_experts qk_rope_head_dim qk_nope_head_dim mamba_n_heads mamba_d_state mamba_d_conv
        mamba_dt_rank linear_num_value_heads linear_conv_kernel_dim laurel_rank
    """,
    2: """
        num_key_value_heads eos_token_id expand num_experts_per_tok mamba_expand
        linear_num_key_heads full_attention_interval altup_num_inputs
    """,
    8: """
        head_dim d_kv q_lora_rank kv_lora_rank v_head_dim qk_head_dim linear_key_head_dim
        linear_value_head_dim hidden_size_per_layer_input kv_channels
    """,
    64: "max_position_embeddings n_positions",
    1: """
        bos_token_id n_groups n_shared_experts n_group topk_group first_k_dense_replace
        mamba_n_groups num_mem_blocks num_hidden_groups
    """,
    0: "pad_token_id num_kv_shared_layers",
}
"""Size -> keys of configs that have it; architectures name them differently."""

_SIZES: dict[str, Any] = {
    **{key: size for size, keys in _OF_SIZE.items() for key in keys.split()},
    "multi_query": False,
}

_DEPTHS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"),
    *("decoder_layers", "encoder_layers"),
)

_FULL, _LINEAR, _SLIDING = (f"{kind}_attention" for kind in ("full", "linear", "sliding"))

_EXTRA: dict[str, dict[str, Any]] = {
    "albert": {"num_hidden_groups": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 4, "n_groups": 1},
    "rwkv": {"attention_hidden_size": 32, "context_length": 64},
    "xlnet": {"d_head": 8, "d_inner": 48},
    "granitemoehybrid": {"layer_types": 2 * ["mamba", "attention"]},
    "bamba": {"attn_layer_indices": [1, 3]},
    "lfm2": {"layer_types": 2 * ["conv", _FULL], "block_ff_dim": 48},
    "lfm2_moe": {"layer_types": 2 * ["conv", _FULL], "num_dense_layers": 1},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8},
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "use_mamba_kernels": False,
    },
    "zamba2": {
        "num_attention_heads": 4, "layers_block_type": 2 * ["mamba", "hybrid"], "n_mamba_heads": 8,
        "use_mamba_kernels": False, "adapter_rank": 4, "mamba_headdim": 8,
    },
    "zamba": {
        "layers_block_type": 2 * ["mamba", "hybrid"], "n_mamba_heads": 2,
        "use_mamba_kernels": False, "attention_head_dim": 16,
    },
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention", "mlp", "mamba"],
        "hybrid_override_pattern": "M*-M", "mamba_num_heads": 4, "mamba_head_dim": 16,
        "ssm_state_size": 4,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "qwen3_next": {"layer_types": 2 * [_LINEAR, _FULL]},
    "qwen3_5": {"layer_types": 2 * [_LINEAR, _FULL]},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 16, "num_layers": 4},
    "mpt": {"d_model": 32, "max_seq_len": 64, "expansion_ratio": 2},
    "dbrx": {"max_seq_len": 64},
    "codegen": {"n_ctx": 64},
    "ctrl": {"dff": 48},
    "gemma3n_text": {
        "layer_types": 2 * [_SLIDING, _FULL], "intermediate_size": 4 * [48],
        "activation_sparsity_pattern": 4 * [0.0],
    },
    "minimax": {"layer_types": 2 * [_LINEAR, _FULL], "block_size": 16},
    "longcat_flash": {
        "ffn_hidden_size": 48, "expert_ffn_hidden_size": 16, "zero_expert_num": 1, "num_layers": 2,
        "moe_topk": 2,
    },
}  # fmt: skip
"""Further settings by architecture."""

_NAMES = {
    "causal": """
        llama mistral qwen2 qwen3 gemma gemma2 gemma3_text gemma3n_text phi phi3 phimoe gpt2
        gptj gpt_neo gpt_neox gpt_bigcode opt bloom falcon mpt codegen stablelm starcoder2
        cohere cohere2 olmo olmo2 olmo3 olmoe granite granitemoe granitemoeshared
        granitemoehybrid mixtral qwen2_moe qwen3_moe qwen3_next deepseek_v2 deepseek_v3 glm glm4
        glm4_moe exaone4 smollm3 nemotron persimmon jetmoe ernie4_5 ernie4_5_moe
        hunyuan_v1_dense hunyuan_v1_moe seed_oss arcee apertus helium bitnet dots1 gpt_oss
        minimax mamba mamba2 falcon_mamba jamba bamba zamba zamba2 falcon_h1 recurrent_gemma
        lfm2 lfm2_moe rwkv nemotron_h nanochat ministral doge vaultgemma flex_olmo longcat_flash
        biogpt xglm ctrl xlnet qwen3_5_text qwen3_5_moe_text gemma4_text afmoe xlstm cpmant
        diffllama moshi kimi_linear olmo_hybrid
    """,
    "seq": """
        t5 bart mbart pegasus marian m2m_100 mt5 umt5 led longt5 switch_transformers t5gemma
        blenderbot prophetnet
    """,
    "enc": """
        bert roberta xlm-roberta distilbert electra albert deberta-v2 modernbert mpnet camembert
        ernie eurobert
    """,
    "vl": """
        llava paligemma qwen2_vl qwen2_5_vl qwen3_vl gemma3 idefics3 smolvlm internvl mistral3
        llava_next llava_onevision idefics2 gemma3n qwen3_5 mllama pixtral aya_vision
        vipllava llava_next_video llama4 glm4v cohere2_vision lfm2_vl got_ocr2 aria paddleocr_vl
        ovis2 video_llava qwen2_5_omni_thinker deepseek_vl janus florence2 qwen3_vl_moe glm4v_moe
        lighton_ocr kimi_k25 kosmos-2 video_llama_3
    """,
}

GROUPS = {group: names.split() for group, names in _NAMES.items()}
"""The architectures: decoders, encoder-decoders, encoders, models with a vision tower."""

_CLASSES = {
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "enc": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "vl": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
}
_WITH_MROPE = {
    *("Qwen2VLConfig", "Qwen2_5_VLConfig", "Qwen2_5OmniThinkerConfig", "Glm4vConfig"),
    "PaddleOCRVLConfig",
}
"""Configs whose default has no sections of rotary embeddings that fit small heads."""

_VISION = {
    "depth": 2, "embed_dim": 32, "image_size": 32, "patch_size": 8, "out_hidden_size": 32,
    "vision_feature_layer": -1, "resampler_n_latents": 4, "resampler_depth": 2,
}  # fmt: skip


def class_name(kind: str) -> str:
    """Return the model class of an architecture; KeyError: transformers does not have it."""
    group = next(group for group, kinds in GROUPS.items() if kind in kinds)
    name = _CLASSES[group][kind]
    return name if isinstance(name, str) else name[0]


def small_config(kind: str, layers: int = 4, vocabulary: int = 128) -> Any:
    """Return a small config of an architecture; KeyError: transformers does not have it."""
    cls = configuration_auto.CONFIG_MAPPING[kind]
    if kind in GROUPS["vl"]:
        return _small_vision_config(cls())
    known = set(inspect.signature(cls.__init__).parameters) | set(cls.attribute_map)
    known |= {key for base in cls.__mro__ for key in getattr(base, "__annotations__", {})}
    wanted = {**_SIZES, **dict.fromkeys(_DEPTHS, layers), "vocab_size": vocabulary}
    sizes = {key: value for key, value in wanted.items() if key in known}
    return cls(**{**sizes, **_EXTRA.get(kind, {})})


def _small_vision_config(config: Any) -> Any:
    names = ("text_config", "vision_config", "audio_config", "perceiver_config")
    for part in (*(getattr(config, name, None) for name in names), config):
        if part is None:
            continue
        for key, value in {**_SIZES, **_VISION}.items():
            if isinstance(getattr(part, key, None), (int, float, str)):
                setattr(part, key, value)
        if type(part).__name__.endswith("VisionConfig") and hasattr(part, "num_hidden_layers"):
            part.num_hidden_layers = 2
        if hasattr(part, "rope_parameters") and type(config).__name__ in _WITH_MROPE:
            part.rope_parameters = {**part.rope_parameters, "mrope_section": [1, 1, 2]}
        for name in ("no_rope_layers", "moe_layers"):  # Llama 4: one entry for each layer
            if getattr(part, name, None):
                setattr(part, name, getattr(part, name)[: part.num_hidden_layers])
        if getattr(part, "layer_types", None):
            kinds = list(dict.fromkeys(part.layer_types))
            part.layer_types = (kinds * 4)[: part.num_hidden_layers]
    return config
