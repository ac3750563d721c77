"""Parents with a LoRA adapter (`model+adapter`): each tensor is changed when it is read.

Supported are LoRA (Hu et al. 2021, arXiv 2106.09685) on linear layers, Conv1D and embeddings, with
rank and alpha patterns, rank-stabilized scaling (Kalajdzievski 2023, arXiv 2312.03732), DoRA (Liu
et al. 2024, arXiv 2402.09353), biases, and modules that are saved whole. No merged copy of the
parent is written to disk.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from evomerge.errors import CheckpointError
from evomerge.merging.tensors.peft import (
    CONFIG,
    WEIGHTS,
    ModuleChange,
    check_supported,
    find_alphas,
    find_changes,
)
from evomerge.merging.tensors.reader import Patch
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import read_header, read_json
from evomerge.parsing.values import Values, shown

if TYPE_CHECKING:
    from torch import Tensor

_VALUES = Values(CheckpointError)
_PAIRS = (["lora_A.weight", "lora_B.weight"], ["lora_embedding_A", "lora_embedding_B"])


def adapter_patches(checkpoints: Mapping[str, Checkpoint]) -> dict[str, Patch]:
    """Return, for every parent with an adapter, the function that changes its tensors.

    Raises:
        CheckpointError: as for `Adapter`.
    """
    return {
        reference: Adapter(checkpoint).patch
        for reference, checkpoint in checkpoints.items()
        if checkpoint.adapter is not None
    }


class Adapter:
    """The LoRA adapter of a parent. To read and check it, no weights are read.

    Raises:
        CheckpointError: the adapter is damaged, of a kind that is not supported, or does not fit
            its model.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        folder = checkpoint.adapter
        assert folder is not None
        self.reference, self.file = checkpoint.reference, folder / WEIGHTS
        if not (folder / CONFIG).is_file():
            raise CheckpointError(f"Parent {self.reference!r}: {folder} has no {CONFIG}.")
        self.config = read_json(folder / CONFIG)
        check_supported(self.config, folder)
        if not self.file.is_file():
            old = next(folder.glob("adapter_model.bin"), None)
            raise CheckpointError(
                f"Parent {self.reference!r}: {folder} has no {WEIGHTS}"
                f"{'; save it as safetensors' if old else ''}."
            )
        self.tensors = read_header(self.file)
        self.weights, self.biases = find_changes(checkpoint, self.tensors, self.file)
        where = f"{folder / CONFIG}: "
        self.alpha = _VALUES.real(self.config.get("lora_alpha", 8), f"{where}lora_alpha")
        changes = (*self.weights.values(), *self.biases.values())
        modules = dict.fromkeys(change.module for change in changes)
        patterns = self.config.get("alpha_pattern") or {}
        self.alphas = find_alphas(patterns, modules, f"{where}alpha_pattern")
        for key in ("use_rslora", "fan_in_fan_out"):
            _VALUES.flag(self.config.get(key) or False, f"{where}{key}")
        for name, change in self.weights.items():
            self._check_weight(change, name, checkpoint.tensors[name].shape)
        for name, change in self.biases.items():
            self._check_bias(change, name, checkpoint.tensors[name].shape)

    def patch(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor of the model after the adapter's change, in float32.

        It is `tensor` itself if the adapter does not change it.
        """
        if name in self.weights:
            return self._weight(self.weights[name], tensor)
        if name in self.biases:
            return self._bias(self.biases[name], tensor)
        return tensor

    def _weight(self, change: ModuleChange, tensor: Tensor) -> Tensor:
        import torch

        weight = self._get(change, "base_layer.weight", "weight")
        weight = tensor.float() if weight is None else weight
        down = self._get(change, *(pair[0] for pair in _PAIRS))
        up = self._get(change, *(pair[1] for pair in _PAIRS))
        if down is None or up is None:
            return weight
        transposed = self._transposed(change, tuple(tensor.shape))
        delta = (up @ down) * self._scale(change)
        changed = weight + (delta.T if transposed else delta)
        magnitude = self._get(change, "lora_magnitude_vector")
        if magnitude is None:
            return changed
        # DoRA has a magnitude for each output, or for each column of an embedding.
        lengths = torch.linalg.vector_norm(changed, dim=0 if transposed else 1, keepdim=True)
        rescaled: Tensor = changed * (magnitude.flatten().view(lengths.shape) / lengths)
        return rescaled

    def _bias(self, change: ModuleChange, tensor: Tensor) -> Tensor:
        bias = self._get(change, "base_layer.bias", "bias")
        bias = tensor.float() if bias is None else bias
        delta = self._get(change, "lora_B.bias")
        return bias if delta is None else bias + delta * self._scale(change)

    def _transposed(self, change: ModuleChange, shape: tuple[int, ...]) -> bool:
        """Whether the model stores the matrix as (inputs, outputs): embeddings and Conv1D."""
        if "lora_embedding_A" in change.keys:
            return True
        product = self._product(change)
        if product != shape or product[::-1] != shape:
            return product != shape
        return bool(self.config.get("fan_in_fan_out"))

    def _scale(self, change: ModuleChange) -> float:
        """Return alpha / rank, or alpha / sqrt(rank) if the adapter is rank-stabilized."""
        alpha = self.alphas.get(change.module, self.alpha)
        rank = self._shape(change, *(pair[0] for pair in _PAIRS))[0]
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _product(self, change: ModuleChange) -> tuple[int, ...]:
        """Return the shape of B A."""
        down, up = (self._shape(change, *(pair[i] for pair in _PAIRS)) for i in range(2))
        return (*up[:1], *down[1:])

    def _shape(self, change: ModuleChange, *parts: str) -> tuple[int, ...]:
        """Return the shape of the first of these parts that there is."""
        return self.tensors[next(change.keys[it] for it in parts if it in change.keys)].shape

    def _get(self, change: ModuleChange, *parts: str) -> Tensor | None:
        """Return the first of these parts that there is, in float32."""
        for part in parts:
            if part in change.keys:
                tensor: Tensor = self._open.get_tensor(change.keys[part])
                return tensor.float()
        return None

    @cached_property
    def _open(self) -> Any:
        return safe_open(self.file, framework="pt")

    def _check_weight(self, change: ModuleChange, name: str, shape: tuple[int, ...]) -> None:
        subject = f"Adapter of {self.reference!r}: module {shown(change.module)}"
        for part in ("weight", "base_layer.weight"):
            if part in change.keys and self._shape(change, part) != shape:
                raise CheckpointError(
                    f"{subject} has a matrix of shape {list(self._shape(change, part))}, but "
                    f"{name!r} of the model has {list(shape)}; resize the model's vocabulary "
                    "first, or merge the adapter into the model with PEFT."
                )
        halves = sorted(part for part in change.keys if re.match(r"lora_(embedding_)?[AB]", part))
        magnitude = change.keys.get("lora_magnitude_vector")
        if not halves and magnitude is None:
            return
        if halves not in _PAIRS:
            raise CheckpointError(
                f"{subject} has only one of the two LoRA matrices, or matrices of two kinds of "
                "layers; save the adapter again."
            )
        down, up = (self._shape(change, part) for part in halves)
        if len(down) != 2 or len(up) != 2 or down[0] != up[1] or down[0] == 0:
            raise CheckpointError(
                f"{subject} has LoRA matrices of shapes {list(down)} and {list(up)}, which have no "
                "rank in common; save the adapter again."
            )
        product = self._product(change)
        embedding = "lora_embedding_A" in change.keys
        allowed = (product[::-1],) if embedding else (product, product[::-1])
        if len(shape) != 2 or shape not in allowed:
            raise CheckpointError(
                f"{subject} changes a matrix of shape {list(product)}, but {name!r} of the model "
                f"has {list(shape)}; the adapter belongs to another model, or changes a "
                "convolution, which is not supported."
            )
        outputs = shape[1] if self._transposed(change, shape) else shape[0]
        if magnitude is not None and math.prod(self.tensors[magnitude].shape) != outputs:
            raise CheckpointError(
                f"{subject} has magnitudes of shape {list(self.tensors[magnitude].shape)} for "
                f"{outputs} outputs; save the adapter again."
            )

    def _check_bias(self, change: ModuleChange, name: str, shape: tuple[int, ...]) -> None:
        subject = f"Adapter of {self.reference!r}: module {shown(change.module)}"
        for part in ("bias", "base_layer.bias", "lora_B.bias"):
            if part in change.keys and self._shape(change, part) != shape:
                raise CheckpointError(
                    f"{subject} has a bias of shape {list(self._shape(change, part))}, but "
                    f"{name!r} of the model has {list(shape)}; the adapter belongs to another "
                    "model."
                )
        if "lora_B.bias" in change.keys and "lora_A.weight" not in change.keys:
            raise CheckpointError(
                f"{subject} has a LoRA bias, but no LoRA matrices; save the adapter again."
            )
