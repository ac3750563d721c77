"""Families of models of random weights: a base model and two models near it, in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FAMILIES = ("llama", "qwen2")
"""Llama with 32,000 tokens and a head of its own; Qwen2 with 151,936 tokens and a tied head."""

SIZES = ("tiny", "quick", "usual", "large")

_SHAPES: dict[tuple[str, str], dict[str, int]] = {
    ("llama", "tiny"): {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4},
    ("llama", "quick"): {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12},
    ("llama", "usual"): {"hidden_size": 1024, "intermediate_size": 3840, "num_hidden_layers": 24},
    ("llama", "large"): {"hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 24},
    ("qwen2", "quick"): {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 12},
    ("qwen2", "usual"): {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24},
    ("qwen2", "large"): {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28},
}


def write_family(folder: Path, name: str, size: str) -> None:
    """Write the models `base`, `one` and `two`.

    Args:
        folder: folder to create.
        name: one of `FAMILIES`.
        size: one of `SIZES`; `usual` is about 0.45 B parameters (`qwen2`: the shapes of Qwen2-0.5B,
            and with `large` those of Qwen2-1.5B).
    """
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    config = _config(name, size)
    words = Tokenizer(
        models.WordLevel({f"w{i}": i for i in range(config.vocab_size)}, unk_token="w0")
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {key: item.shape for key, item in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    for seed, member in enumerate(("base", "one", "two")):
        tensors = {}
        for position, (tensor_name, shape) in enumerate(shapes.items()):
            shared = torch.Generator().manual_seed(position)
            tensor = torch.randn(shape, generator=shared) * 0.02
            if seed:
                own = torch.Generator().manual_seed(position + 1000 * seed)
                tensor += torch.randn(shape, generator=own) * 0.001
            tensors[tensor_name] = tensor.bfloat16()
        config.save_pretrained(folder / member)
        tokenizer.save_pretrained(folder / member)
        save_file(tensors, folder / member / "model.safetensors", metadata={"format": "pt"})


def _config(name: str, size: str) -> Any:
    from transformers import LlamaConfig, Qwen2Config

    if name == "llama":
        return LlamaConfig(
            vocab_size=32000,
            num_attention_heads=8,
            num_key_value_heads=8,
            dtype="bfloat16",
            architectures=["LlamaForCausalLM"],
            **_SHAPES[name, size],
        )
    return Qwen2Config(
        vocab_size=151936,
        num_attention_heads=_SHAPES[name, size]["hidden_size"] // 64,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["Qwen2ForCausalLM"],
        **_SHAPES[name, size],
    )
