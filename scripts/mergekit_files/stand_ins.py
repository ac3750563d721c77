"""Tiny random models in place of those that mergekit files name."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.utils import logging

from scripts.architectures.configs import class_name, small_config

NOISE = 0.3
"""Distance of a model from the first one, as a share of the standard deviation of each tensor."""

SPECIAL = ["<unk>", "<s>", "</s>", "<|endoftext|>"]
EXTRA = ((), ("<|im_start|>", "<|im_end|>"), ("<|tool|>",))
"""Tokens that only some models have, if a file names a tokenizer."""


def stand_in(data: dict[str, Any], kind: str, folder: Path) -> Any:
    """Return a mergekit file with the folders of tiny models for all names.

    The same place in a file is the same model in all files with as many layers. All models have
    the tokens that the file names. A model
    with an adapter (`model+adapter`) is one model.
    """
    names = dict.fromkeys(_names(data))
    layers = max(_depths(data), default=4)
    section = data.get("tokenizer")
    varied = "tokenizer" in data or "tokenizer_source" in data
    shared = list(section.get("tokens", ())) if isinstance(section, dict) else []
    label = f"-{zlib.crc32(' '.join(shared).encode())}" if shared else ""
    pool = folder / f"{kind}-{layers}{'-tokens' if varied else ''}{label}"
    folders = {
        name: str(_model(pool / str(i), kind, layers, i, shared, EXTRA[i % 3] if varied else ()))
        for i, name in enumerate(names)
    }
    return _renamed(data, folders)


def _names(node: Any) -> Iterator[str]:
    """Yield the models of a node, the base model first."""
    if isinstance(node, dict):
        for key in sorted(node, key=lambda key: key != "base_model"):
            value = node[key]
            if key in ("base_model", "model") and isinstance(value, str):
                yield value
            elif key not in ("tokenizer", "tokenizer_source"):
                yield from _names(value)
    elif isinstance(node, list):
        for item in node:
            yield from _names(item)


def _depths(node: Any) -> Iterator[int]:
    if isinstance(node, dict):
        if "layer_range" in node:
            yield int(node["layer_range"][1])
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _depths(item)


def _renamed(node: Any, folders: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _renamed(value, folders) for key, value in node.items()}
    if isinstance(node, list):
        return [_renamed(item, folders) for item in node]
    return folders.get(node, node) if isinstance(node, str) else node


def _model(
    folder: Path, kind: str, layers: int, number: int, shared: Sequence[str], extra: Sequence[str]
) -> Path:
    if (folder / "config.json").is_file():
        return folder
    logging.set_verbosity(50)
    logging.disable_progress_bar()
    tokenizer = _tokenizer(shared, extra)
    size = len(_tokenizer(shared, ()))
    config = small_config(kind, layers=layers, vocabulary=size)
    torch.manual_seed(0)
    model = getattr(transformers, class_name(kind))(config).float()
    noise = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for weight in model.parameters():
            torch.nn.init.normal_(weight, 0.5 if weight.dim() == 1 else 0.0, 0.1)
        for weight in model.parameters() if number else ():
            weight += NOISE * weight.std() * torch.randn(weight.shape, generator=noise)
    if len(tokenizer) != size:
        model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(shared: Sequence[str], extra: Sequence[str]) -> transformers.PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=[*SPECIAL, *shared],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 9, trainer)
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in extra])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
