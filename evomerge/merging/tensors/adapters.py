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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
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
from evomerge.models.safetensors import TensorInfo, read_header, read_json
from evomerge.parsing.values import Values, shown

if TYPE_CHECKING:
    from torch import Tensor

_VALUES = Values(CheckpointError)
_PAIRS = ({"lora_A.weight", "lora_B.weight"}, {"lora_embedding_A", "lora_embedding_B"})


def adapter_patches(checkpoints: Mapping[str, Checkpoint]) -> dict[str, Patch]:
    """Return, for every parent with an adapter, the function that changes its tensors.

    Args:
        checkpoints: all parents by reference.

    Returns:
        Reference -> patch.

    Raises:
        CheckpointError: an adapter is damaged, of a kind that is not supported, or does not fit
            its model.
    """
    return {
        reference: Adapter.open(checkpoint).patch
        for reference, checkpoint in checkpoints.items()
        if checkpoint.adapter is not None
    }


@dataclass(frozen=True, eq=False)
class Adapter:
    """The LoRA adapter of one parent.

    Attributes:
        reference: reference of the parent.
        file: the file with the adapter's weights.
        config: content of `adapter_config.json`.
        tensors: the tensors in `file`, by name.
        weights: name of a weight in the model -> its change.
        biases: name of a bias in the model -> its change.
        alpha: `lora_alpha` of the config.
        alphas: name of a module -> its own alpha, by `alpha_pattern` of the config.
    """

    reference: str
    file: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    weights: Mapping[str, ModuleChange]
    biases: Mapping[str, ModuleChange]
    alpha: float
    alphas: Mapping[str, float]

    @classmethod
    def open(cls, checkpoint: Checkpoint) -> Adapter:
        """Read and check the adapter of a parent. No weights are read.

        Raises:
            CheckpointError: the adapter is damaged, of a kind that is not supported, or does not
                fit its model.
        """
        folder = checkpoint.adapter
        assert folder is not None
        if not (folder / CONFIG).is_file():
            raise CheckpointError(f"Parent {checkpoint.reference!r}: {folder} has no {CONFIG}.")
        config = read_json(folder / CONFIG)
        check_supported(config, folder)
        file = folder / WEIGHTS
        if not file.is_file():
            advice = (
                "; save it as safetensors" if next(folder.glob("adapter_model.bin"), None) else ""
            )
            raise CheckpointError(
                f"Parent {checkpoint.reference!r}: {folder} has no {WEIGHTS}{advice}."
            )
        tensors = read_header(file)
        weights, biases = find_changes(checkpoint, tensors, file)
        where = f"{folder / CONFIG}: "
        alpha = _VALUES.real(config.get("lora_alpha", 8), f"{where}lora_alpha")
        modules = dict.fromkeys(change.module for change in (*weights.values(), *biases.values()))
        patterns = config.get("alpha_pattern") or {}
        alphas = find_alphas(patterns, modules, f"{where}alpha_pattern")
        for key in ("use_rslora", "fan_in_fan_out"):
            _VALUES.flag(config.get(key) or False, f"{where}{key}")
        adapter = cls(checkpoint.reference, file, config, tensors, weights, biases, alpha, alphas)
        for name, change in weights.items():
            adapter._check_weight(change, name, checkpoint.tensors[name].shape)
        for name, change in biases.items():
            adapter._check_bias(change, name, checkpoint.tensors[name].shape)
        return adapter

    def patch(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor of the model after the adapter's change.

        Args:
            name: name of the tensor in the model.
            tensor: the tensor as it is in the model.

        Returns:
            The changed tensor, in float32; `tensor` itself if the adapter does not change it.
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
        delta = self._delta(change, tuple(tensor.shape))
        if delta is None:
            return weight
        magnitude = self._get(change, "lora_magnitude_vector")
        if magnitude is None:
            return weight + delta
        changed = weight + delta
        # DoRA has a magnitude for each output, or for each column of an embedding.
        outputs = 1 if self._transposed(change, tuple(tensor.shape)) else 0
        lengths = torch.linalg.vector_norm(changed, dim=1 - outputs, keepdim=True)
        rescaled: Tensor = changed * (magnitude.flatten().view(lengths.shape) / lengths)
        return rescaled

    def _bias(self, change: ModuleChange, tensor: Tensor) -> Tensor:
        bias = self._get(change, "base_layer.bias", "bias")
        bias = tensor.float() if bias is None else bias
        delta = self._get(change, "lora_B.bias")
        return bias if delta is None else bias + delta * self._scale(change)

    def _delta(self, change: ModuleChange, shape: tuple[int, ...]) -> Tensor | None:
        """Return scale * B A in the shape of the model's tensor, or None without LoRA matrices."""
        down = self._get(change, "lora_A.weight", "lora_embedding_A")
        up = self._get(change, "lora_B.weight", "lora_embedding_B")
        if down is None or up is None:
            return None
        delta = (up @ down) * self._scale(change)
        return delta.T if self._transposed(change, shape) else delta

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
        key = change.keys.get("lora_A.weight") or change.keys["lora_embedding_A"]
        rank = self.tensors[key].shape[0]
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _product(self, change: ModuleChange) -> tuple[int, ...]:
        """Return the shape of B A."""
        up = change.keys.get("lora_B.weight") or change.keys["lora_embedding_B"]
        down = change.keys.get("lora_A.weight") or change.keys["lora_embedding_A"]
        return (*self.tensors[up].shape[:1], *self.tensors[down].shape[1:])

    def _shape(self, change: ModuleChange, part: str) -> tuple[int, ...]:
        return self.tensors[change.keys[part]].shape

    def _check_weight(self, change: ModuleChange, name: str, shape: tuple[int, ...]) -> None:
        subject = f"Adapter of {self.reference!r}: module {shown(change.module)}"
        for part in ("weight", "base_layer.weight"):
            if part in change.keys and self._shape(change, part) != shape:
                raise CheckpointError(
                    f"{subject} has a matrix of shape {list(self._shape(change, part))}, but "
                    f"{name!r} of the model has {list(shape)}; resize the model's vocabulary "
                    "first, or merge the adapter into the model with PEFT."
                )
        halves = {part for part in change.keys if re.match(r"lora_(embedding_)?[AB]", part)}
        magnitude = change.keys.get("lora_magnitude_vector")
        if not halves and magnitude is None:
            return
        if halves not in _PAIRS:
            raise CheckpointError(
                f"{subject} has only one of the two LoRA matrices, or matrices of two kinds of "
                "layers; save the adapter again."
            )
        down, up = (self._shape(change, part) for part in sorted(halves))
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

    def _get(self, change: ModuleChange, *parts: str) -> Tensor | None:
        for part in parts:
            if part in change.keys:
                tensor: Tensor = self._open.get_tensor(change.keys[part])
                return tensor.float()
        return None

    @cached_property
    def _open(self) -> Any:
        return safe_open(self.file, framework="pt")
