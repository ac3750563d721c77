"""Tiny models in GGUF files, as llama.cpp stores them."""

import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tiny
import torch

_TOKENS = ["<|endoftext|>", *map(chr, range(97, 123)), "ab", "Ġ", *(f"[u{i}]" for i in range(19))]
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "head_dim": 16,
}


def write_gguf(
    file: Path, kind: str = "F32", *, architecture: str = "qwen2", seed: int = 0
) -> dict[str, torch.Tensor]:
    """Write the weights of a tiny Qwen2 as llama.cpp stores them; return them by their names."""
    with tempfile.TemporaryDirectory() as folder:
        made = tiny.make(Path(folder), "qwen2", seed=seed, tied=False, **_SIZES)
        model = tiny.load(made)
    config = model.config
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(_TOKENS[: config.vocab_size])
    writer.add_token_types([3] + [1] * (config.vocab_size - 1))
    writer.add_token_merges(["a b"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(0)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    weights = {name: tensor.float() for name, tensor in model.state_dict().items()}
    for name, tensor in weights.items():
        theirs, array = names.get_name(name, (".weight", ".bias")), tensor.numpy()
        if kind != "F32" and array.ndim == 2:
            stored = getattr(gguf.GGMLQuantizationType, kind)
            data = gguf.quants.quantize(array, stored)
            writer.add_tensor(theirs, data, raw_dtype=stored)
            weights[name] = torch.from_numpy(gguf.quants.dequantize(data, stored).copy())
        else:
            writer.add_tensor(theirs, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights
