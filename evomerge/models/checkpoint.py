"""What a parent is: its config, its tensors and block stacks, its tokenizer. No weight is loaded.

Nothing here knows an architecture. A block stack is a prefix under which the names count up
(`model.layers.0.`, `model.layers.1.`, ...); what lies outside of the stacks is sorted by what its
name says (embeddings, head, another modality).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal, TypeAlias

from evomerge.errors import CheckpointError
from evomerge.models.safetensors import TensorInfo, read_folder, read_json
from evomerge.models.stacks import (
    Stack,
    component_of,
    find_stacks,
    is_buffer,
    is_other_modality,
    shortest,
)

Place: TypeAlias = Literal["embeddings", "head", "kept", "buffer"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.json",
    "chat_template.jinja",
)
COMPANION_FILES = (
    *TOKENIZER_FILES,
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
)
"""What a merged model takes over from its host beside config and weights."""

_INPUT = re.compile(r"embed|(^|\.)(wte|wpe|shared)\.")
_NO_TOKENS = re.compile(r"position|token_type|(^|\.)wpe\.")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output_projection|unembed\w*|cls|score|head)(\.|$)")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model on disk, opened but not loaded.

    Attributes:
        reference: how recipes and search files call it.
        folder: where it lies.
        config: `config.json`.
        tensors: every tensor by its name on disk.
        adapter: folder of a LoRA adapter that is added to the weights, or None.
        original: the checkpoint as it is on disk, where `tensors` has other names than the disk.
    """

    reference: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    adapter: Path | None = None
    original: Checkpoint | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        reference: str,
        *,
        adapter: Path | None = None,
        allow_pickle: bool = False,
    ) -> Checkpoint:
        """Read config and headers of a model folder.

        Args:
            folder: local folder in Hugging Face layout.
            reference: the name it is known by.
            adapter: folder of a PEFT adapter on top of it.
            allow_pickle: accept `pytorch_model*.bin` (loaded with `weights_only=True`) where there
                are no safetensors.

        Raises:
            CheckpointError: the folder is no model, is damaged, or its weights are quantised.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"Parent {reference!r}: there is no folder {str(folder)!r}.")
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"Parent {reference!r}: {folder} has no config.json.")
        config = read_json(folder / "config.json")
        if config.get("quantization_config"):
            raise CheckpointError(
                f"Parent {reference!r} is quantised (config.json has quantization_config); merge "
                "the full-precision checkpoint it was made from."
            )
        return cls(reference, folder, config, _tensors(folder, allow_pickle), adapter)

    @property
    def parameters(self) -> int:
        """Number of weights in all tensors."""
        return sum(prod(info.shape) for info in self.tensors.values())

    @cached_property
    def stacks(self) -> dict[str, Stack]:
        """Block stacks by prefix, the largest first."""
        return find_stacks(self.tensors)

    @property
    def language(self) -> dict[str, Stack]:
        """The language model's stacks by prefix (all of `stacks`, in a text model)."""
        return {
            prefix: stack for prefix, stack in self.stacks.items() if not is_other_modality(prefix)
        }

    @cached_property
    def main(self) -> Stack:
        """The language model's blocks (the decoder's, where there is an encoder too).

        Raises:
            CheckpointError: the tensor names show no blocks.
        """
        language = self.language.values()
        if not language:
            raise CheckpointError(
                f"Parent {self.reference!r}: no repeated blocks are found in its tensor names, "
                f"such as {next(iter(self.tensors), 'none')!r}."
            )
        return max(language, key=lambda item: ("decoder" in item.prefix, self._size(item)))

    def _size(self, stack: Stack) -> int:
        names = (stack.name(i, rest) for i, block in enumerate(stack.blocks) for rest in block)
        return sum(self.tensors[name].nbytes for name in names)

    @cached_property
    def places(self) -> dict[str, Place]:
        """Where every tensor outside of the blocks belongs.

        `embeddings`: input embeddings. `head`: final norm, head, rest. `kept`: another modality's
        (vision tower, projector), which only the host has a say in. `buffer`: computed from the
        config, not learnt (rotary frequencies, causal masks).
        """
        inside = {
            stack.name(layer, rest)
            for stack in self.stacks.values()
            for layer, block in enumerate(stack.blocks)
            for rest in block
        }
        return {
            name: self._place(name, info)
            for name, info in self.tensors.items()
            if name not in inside
        }

    def _place(self, name: str, info: TensorInfo) -> Place:
        if is_buffer(name, info):
            return "buffer"
        if is_other_modality(name):
            return "kept"
        return "embeddings" if _INPUT.search(name) and not _HEAD.search(name) else "head"

    @cached_property
    def embedding(self) -> str | None:
        """Name of the input embedding matrix: a row a token, the largest of `embeddings`."""
        found = [
            name
            for name, place in self.places.items()
            if place == "embeddings"
            and len(self.tensors[name].shape) == 2
            and not _NO_TOKENS.search(name)
        ]
        return max(found, key=lambda name: self.tensors[name].nbytes, default=None)

    @cached_property
    def head(self) -> str | None:
        """Name of the output head on disk, or None where the embeddings stand for it."""
        vocabulary = self.tensors[self.embedding].shape if self.embedding else None
        for name, place in self.places.items():
            if place == "head" and _HEAD.search(name) and self.tensors[name].shape == vocabulary:
                return name
        return None

    @cached_property
    def token_tensors(self) -> tuple[str, ...]:
        """Names of the tensors with one row a token: embeddings, head, the head's bias."""
        return tuple(
            name
            for name, place in self.places.items()
            if place in ("embeddings", "head")
            and self.tensors[name].shape[:1] == (self.vocabulary,)
            and (name in (self.embedding, self.head) or _HEAD.search(name))
        )

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The language model's part of the config (all of it, in a text model)."""
        for key in ("text_config", "llm_config", "language_config", "decoder"):
            if isinstance(self.config.get(key), dict):
                return self.config[key]  # type: ignore[no-any-return]
        return self.config

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding matrix (a copy of it on disk is ignored then)."""
        declared = self.config.get(
            "tie_word_embeddings", self.text_config.get("tie_word_embeddings")
        )
        return self.head is None if declared is None else bool(declared)

    @cached_property
    def vocabulary(self) -> int:
        """Rows of the embedding matrix (padding included), 0 where there is none."""
        return self.tensors[self.embedding].shape[0] if self.embedding else 0

    @property
    def companions(self) -> tuple[Path, ...]:
        """Tokenizer, chat template, generation and processor files that exist."""
        named = [self.folder / name for name in COMPANION_FILES if (self.folder / name).is_file()]
        return (*named, *sorted((self.folder / "additional_chat_templates").glob("*.jinja")))

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(info.nbytes for info in self.tensors.values())

    def filters(self, prefix: str | None = None) -> dict[str, tuple[str, ...]]:
        """Return, for `attention`, `mlp` and `norm`, what their tensors' names contain.

        The substrings are filters for knobs, to be tried in this order; a tensor that none
        matches is of no component. A norm inside of the attention counts as attention.
        """
        stack = self.stacks[prefix] if prefix else self.main
        rests = sorted({rest for block in stack.blocks for rest in block})
        found: dict[str, list[str]] = {"attention": [], "mlp": [], "norm": []}
        for rest in rests:
            component, word = component_of(rest)
            if component and word not in found[component]:
                found[component].append(word)
        return {name: shortest(words, rests) for name, words in found.items() if words}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 that names the parent's content, as 64 hexadecimal digits.

        Covers: config, tokenizer, generation config and adapter byte for byte; every tensor's
        name, dtype and shape; its data whole up to 64 KiB, else 16 blocks of 4 KiB spread evenly
        over it. A retrained or swapped model cannot keep its fingerprint; an edit of a few
        elements between the sampled blocks can.
        """
        if self.original is not None:
            return self.original.fingerprint
        total = hashlib.sha256()
        files = [self.folder / "config.json", *self.companions]
        files += sorted(self.adapter.glob("adapter_*")) if self.adapter else []
        for file in files:
            total.update(f"{file.name}:{file.stat().st_size}\n".encode() + file.read_bytes())
        for name, info in sorted(self.tensors.items()):
            total.update(f"{name}:{info.dtype}:{info.shape}\n".encode())
            total.update(_sample(info))
        return total.hexdigest()


def _sample(info: TensorInfo) -> bytes:
    if info.end == info.begin:
        return b""
    if info.nbytes <= 1 << 16:
        spans = [(info.begin, info.nbytes)]
    else:
        step = (info.nbytes - 4096) / 15
        spans = [(info.begin + int(i * step), 4096) for i in range(16)]
    descriptor = os.open(info.file, os.O_RDONLY)
    try:
        return b"".join(os.pread(descriptor, length, start) for start, length in spans)
    finally:
        os.close(descriptor)


def _tensors(folder: Path, allow_pickle: bool) -> dict[str, TensorInfo]:
    pickles = sorted(folder.glob("*.bin"))
    if not pickles or next(folder.glob("*.safetensors"), None):
        return read_folder(folder)
    if not allow_pickle:
        raise CheckpointError(
            f"{folder} has its weights in {pickles[0].name}, a pickle, which can run code when it "
            "is read; use a safetensors version, or allow it with --allow-pickle."
        )
    from evomerge.models.pickles import read_folder as read_pickles

    return read_pickles(folder)
