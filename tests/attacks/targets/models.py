"""The files of a model folder: weights and their headers, adapters, tokenizers."""

import itertools
import json
import struct
from functools import partial
from pathlib import Path
from typing import Any

import tiny
import torch
from attacks.targets.target import Read, Target, near_json
from attacks.targets.texts import validated
from draws import damaged, json_files, value_or_error
from safetensors.torch import save_file

from evomerge.merging.kernels.torch_views import as_tensor
from evomerge.merging.tensors.plan import SourceTensor
from evomerge.merging.tensors.reader import TensorReader
from evomerge.merging.tokenizers.plan import plan_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import SINGLE, read_header
from evomerge.models.stacks import component_filters
from evomerge.recipe import Layer, Recipe, Source

ADAPTER: dict[str, Any] = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none",
    "alpha_pattern": {"layers.1.self_attn.q_proj": 8}, "init_lora_weights": True,
    **dict.fromkeys(("use_rslora", "use_dora", "fan_in_fan_out"), False),
}  # fmt: skip
SPECIAL = {
    "id": 0, "content": "<pad>", "single_word": False, "lstrip": False, "rstrip": False,
    "normalized": False, "special": True,
}  # fmt: skip
BPE: dict[str, Any] = {
    "version": "1.0", "pre_tokenizer": {"type": "Whitespace"},
    **dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder")),
    "added_tokens": [SPECIAL, {**SPECIAL, "id": 5, "content": "<new>"}],
    "model": {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "vocab": {"<pad>": 0, "a": 1, "b": 2, "ab": 3, "c": 4}, "merges": [["a", "b"]],
    },
}  # fmt: skip
UNIGRAM: dict[str, Any] = {
    **BPE,
    "model": {
        "type": "Unigram", "unk_id": 0, "byte_fallback": False,
        "vocab": [["<pad>", 0.0], ["a", -1.0], ["b", -2.0], ["ab", -1.5], ["d", -3.0]],
    },
}  # fmt: skip
TOKENIZER_CONFIG: dict[str, Any] = {
    "chat_template": [{"name": "default", "template": "{{ messages }}"}],
    "added_tokens_decoder": {"0": {"content": "<pad>", "special": True}},
    "pad_token": "<pad>",
    "eos_token": {"__type": "AddedToken", "content": "<new>"},
}
GENERATION: dict[str, Any] = {"eos_token_id": [1, 2], "pad_token_id": 0, "max_length": 20}
HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    **{
        f"model.layers.0.{name}.weight": {
            "dtype": "F32", "shape": [2, 2], "data_offsets": [16 * i, 16 * i + 16],
        }
        for i, name in enumerate(["mlp.up", "mlp.down", "attn.q", "attn.k"])
    },
    "model.embed_tokens.weight": {"dtype": "BF16", "shape": [4, 2], "data_offsets": [64, 80]},
}  # fmt: skip


def look(checkpoint: Checkpoint) -> tuple[Any, ...]:
    """Everything that later rooms ask of a checkpoint without reading a weight."""
    return (
        checkpoint.parameters, checkpoint.decoder_stack, checkpoint.places, checkpoint.embedding,
        checkpoint.head, checkpoint.token_tensors, checkpoint.text_config, checkpoint.tied,
        checkpoint.vocabulary, checkpoint.nbytes, checkpoint.fingerprint,
        component_filters(checkpoint.decoder_stack),
    )  # fmt: skip


def with_header(header: bytes, data: bytes) -> bytes:
    """Return a safetensors file."""
    return struct.pack("<Q", len(header)) + header + data


def headers(folder: Path) -> Read:
    """A safetensors file, alone and as the weights of a model."""
    (folder / "config.json").write_text("{}")

    def read(data: bytes) -> Any:
        (folder / SINGLE).write_bytes(data)
        value_or_error(lambda: look(Checkpoint.open(folder, "model")))
        return read_header(folder / SINGLE)

    return read


def adapters(folder: Path) -> Read:
    """The config of an adapter that fits a tiny Llama, whose change is then made."""
    model, adapter = tiny.make(folder / "model", "llama", seed=1), folder / "adapter"
    name = "base_model.model.model.layers.{}.self_attn.q_proj.{}.weight"
    tensors = {
        name.format(layer, part): torch.ones(shape)
        for layer in range(2)
        for part, shape in (("lora_A", (2, 16)), ("lora_B", (16, 2)))
    }
    adapter.mkdir()
    save_file(tensors, adapter / "adapter_model.safetensors")

    def read(data: bytes) -> bool:
        (adapter / "adapter_config.json").write_bytes(data)
        checkpoint = Checkpoint.open(model, "model", adapter=adapter)
        reader = TensorReader({"model": checkpoint})
        changed = (reader.read(SourceTensor("model", name)) for name in checkpoint.tensors)
        return all(bool(as_tensor(item).isfinite().all()) for item in changed)

    return read


def tokenizer_pair(folder: Path, content: dict[str, Any]) -> tuple[Path, Path]:
    """Write two models with the same weights and the same small tokenizer."""
    for name in ("one", "two"):
        path = tiny.make(folder / name, "llama", tokenizer=False)
        (path / "tokenizer.json").write_text(json.dumps(content))
        (path / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
        (path / "generation_config.json").write_text(json.dumps(GENERATION))
    return folder / "one", folder / "two"


def plan_all(folder: Path, other: Path) -> list[Any]:
    """Plan every kind of tokenizer for a pair of parents, either as the host."""
    layer = Layer("linear", (Source("host"), Source("model")))
    tokens = {"tokens": json.dumps({"a": {"source": "model"}}), "pad_to_multiple_of": "4"}
    auto = {"chat_template": "auto"}
    kinds = (("base", auto), ("model", auto), ("union", tokens), ("union", {}))

    def plan(tokenizer: str, options: dict[str, str], *folders: Path) -> Any:
        recipe = Recipe("host", {}, layer, layer, tokenizer=tokenizer, options=options)
        pairs = zip(("host", "model"), folders, strict=True)
        return plan_tokenizer(recipe, {name: Checkpoint.open(path, name) for name, path in pairs})

    plans = itertools.product(kinds, ((folder, other), (other, folder)))
    return [value_or_error(partial(plan, *kind, *pair)) for kind, pair in plans]


def _tokenizers(content: dict[str, Any], name: str) -> Any:
    def reader(folder: Path) -> Read:
        one, two = tokenizer_pair(folder, content)

        def read(data: bytes) -> list[Any]:
            (two / name).write_bytes(data)
            return plan_all(one, two)

        return read

    return reader


_FILE = with_header(json.dumps(HEADER).encode(), bytes(80))
_LLAMA = {**tiny.CONFIGS["llama"]().to_dict(), "architectures": ["LlamaForCausalLM"]}
MODELS = {
    "config.json": near_json(validated("a/config.json"), _LLAMA),
    "header": Target(
        (_FILE,),
        json_files(HEADER).map(lambda header: with_header(header, bytes(80))) | damaged(_FILE),
        headers,
    ),
    "adapter": near_json(adapters, ADAPTER),
    "tokenizer bpe": near_json(_tokenizers(BPE, "tokenizer.json"), BPE),
    "tokenizer unigram": near_json(_tokenizers(UNIGRAM, "tokenizer.json"), UNIGRAM),
    "tokenizer config": near_json(_tokenizers(BPE, "tokenizer_config.json"), TOKENIZER_CONFIG),
    "generation config": near_json(_tokenizers(UNIGRAM, "generation_config.json"), GENERATION),
}
