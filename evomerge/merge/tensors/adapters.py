"""Parents with a LoRA adapter (`model+adapter`): each tensor gets its change as it is read.

PEFT's folders are taken: `adapter_config.json` and `adapter_model.safetensors`. Supported are
LoRA (Hu et al. 2021, arXiv 2106.09685) on linear layers, Conv1D and embeddings, with rank and
alpha patterns, rank-stabilised scaling (Kalajdzievski 2023, arXiv 2312.03732), DoRA (Liu et al.
2024, arXiv 2402.09353), biases and modules saved whole. Everything else is refused by name, so
that no part of an adapter is left out silently. No merged copy of the parent is made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.merge.tensors.reader import Patch
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import normal
from evomerge.models.safetensors import TensorInfo, read_header, read_json
from evomerge.parsing.values import Values, shown

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_REFUSED = (
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "megatron_config",
)
_VALUES = Values(CheckpointError)
_PAIRS = ({"lora_A.weight", "lora_B.weight"}, {"lora_embedding_A", "lora_embedding_B"})
_KEEPING_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to start an adapter that leave the base's weights as they are."""

_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+?)\."
    r"(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(?:\.weight)?|base_layer\.weight|base_layer\.bias"
    r"|(?:modules_to_save\.)?(?:weight|bias))"
)


def adapter_patches(checkpoints: Mapping[str, Checkpoint]) -> dict[str, Patch]:
    """Return what changes the tensors of every parent that has an adapter, by reference.

    Raises:
        CheckpointError: an adapter is damaged, of a kind that is not supported, or does not fit
            its model.
    """
    return {
        reference: Adapter.open(checkpoint).patch
        for reference, checkpoint in checkpoints.items()
        if checkpoint.adapter is not None
    }


@dataclass
class _Change:
    """What one module of the adapter does: keys of its tensors in the adapter, by part."""

    module: str
    keys: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Adapter:
    """One LoRA adapter on one model.

    Attributes:
        reference: the parent's reference.
        file: the adapter's weights.
        config: content of `adapter_config.json`.
        tensors: the header of `file`.
        weights: changes of weight matrices, by the tensor's name in the model.
        biases: changes of biases, by the tensor's name in the model.
        alpha: the config's `lora_alpha`.
        alphas: the config's `alpha_pattern`: pattern of whole module names, and alpha there.
    """

    reference: str
    file: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    weights: Mapping[str, _Change]
    biases: Mapping[str, _Change]
    alpha: float
    alphas: tuple[tuple[re.Pattern[str], float], ...]

    @classmethod
    def open(cls, checkpoint: Checkpoint) -> Adapter:
        """Read and check the adapter of a parent; no weight is read.

        Raises:
            CheckpointError: see `adapter_patches`.
        """
        folder = checkpoint.adapter
        assert folder is not None
        if not (folder / CONFIG).is_file():
            raise CheckpointError(f"Parent {checkpoint.reference!r}: {folder} has no {CONFIG}.")
        config = read_json(folder / CONFIG)
        _check_supported(config, folder)
        file = folder / WEIGHTS
        if not file.is_file():
            advice = (
                "; save it as safetensors" if next(folder.glob("adapter_model.bin"), None) else ""
            )
            raise CheckpointError(
                f"Parent {checkpoint.reference!r}: {folder} has no {WEIGHTS}{advice}."
            )
        tensors = read_header(file)
        weights, biases = _changes(checkpoint, tensors, file)
        where = f"{folder / CONFIG}: "
        alpha = _VALUES.real(config.get("lora_alpha", 8), f"{where}lora_alpha")
        alphas = _alphas(config.get("alpha_pattern") or {}, f"{where}alpha_pattern")
        adapter = cls(checkpoint.reference, file, config, tensors, weights, biases, alpha, alphas)
        for name, change in weights.items():
            adapter._check_weight(change, name, checkpoint.tensors[name].shape)
        for name, change in biases.items():
            adapter._check_bias(change, name, checkpoint.tensors[name].shape)
        return adapter

    def patch(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor of the model with the adapter's change, in float32 where it has one."""
        if name in self.weights:
            return self._weight(self.weights[name], tensor)
        if name in self.biases:
            return self._bias(self.biases[name], tensor)
        return tensor

    def _weight(self, change: _Change, tensor: Tensor) -> Tensor:
        weight = self._get(change, "base_layer.weight", "weight")
        weight = tensor.float() if weight is None else weight
        delta = self._delta(change, tuple(tensor.shape))
        if delta is None:
            return weight
        magnitude = self._get(change, "lora_magnitude_vector")
        if magnitude is None:
            return weight + delta
        changed = weight + delta
        # The magnitude is one number for each output, or for each column of an embedding.
        outputs = 1 if self._transposed(change, tuple(tensor.shape)) else 0
        lengths = torch.linalg.vector_norm(changed, dim=1 - outputs, keepdim=True)
        lengthened: Tensor = changed * (magnitude.flatten().view(lengths.shape) / lengths)
        return lengthened

    def _bias(self, change: _Change, tensor: Tensor) -> Tensor:
        bias = self._get(change, "base_layer.bias", "bias")
        bias = tensor.float() if bias is None else bias
        delta = self._get(change, "lora_B.bias")
        return bias if delta is None else bias + delta * self._scale(change)

    def _delta(self, change: _Change, shape: tuple[int, ...]) -> Tensor | None:
        down = self._get(change, "lora_A.weight", "lora_embedding_A")
        up = self._get(change, "lora_B.weight", "lora_embedding_B")
        if down is None or up is None:
            return None
        delta = (up @ down) * self._scale(change)
        return delta.T if self._transposed(change, shape) else delta

    def _transposed(self, change: _Change, shape: tuple[int, ...]) -> bool:
        """Whether the model stores the matrix as (inputs, outputs): embeddings and Conv1D."""
        if "lora_embedding_A" in change.keys:
            return True
        product = self._product(change)
        if product != shape or product[::-1] != shape:
            return product != shape
        return bool(self.config.get("fan_in_fan_out"))

    def _scale(self, change: _Change) -> float:
        matching = (alpha for pattern, alpha in self.alphas if pattern.fullmatch(change.module))
        alpha = next(matching, self.alpha)
        key = change.keys.get("lora_A.weight") or change.keys["lora_embedding_A"]
        rank = self.tensors[key].shape[0]
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _product(self, change: _Change) -> tuple[int, ...]:
        """Return the shape of B A."""
        up = change.keys.get("lora_B.weight") or change.keys["lora_embedding_B"]
        down = change.keys.get("lora_A.weight") or change.keys["lora_embedding_A"]
        return (*self.tensors[up].shape[:1], *self.tensors[down].shape[1:])

    def _shape(self, change: _Change, part: str) -> tuple[int, ...]:
        return self.tensors[change.keys[part]].shape

    def _check_weight(self, change: _Change, name: str, shape: tuple[int, ...]) -> None:
        told = f"Adapter of {self.reference!r}: module {shown(change.module)}"
        for part in ("weight", "base_layer.weight"):
            if part in change.keys and self._shape(change, part) != shape:
                raise CheckpointError(
                    f"{told} saves a matrix of shape {list(self._shape(change, part))} "
                    f"and {name!r} of the model has {list(shape)}; resize the model's "
                    "vocabulary first, or merge the adapter into it with PEFT."
                )
        halves = {part for part in change.keys if re.match(r"lora_(embedding_)?[AB]", part)}
        magnitude = change.keys.get("lora_magnitude_vector")
        if not halves and magnitude is None:
            return
        if halves not in _PAIRS:
            raise CheckpointError(f"{told} has only one of the two LoRA matrices, or another's.")
        down, up = (self._shape(change, part) for part in sorted(halves))
        if len(down) != 2 or len(up) != 2 or down[0] != up[1] or down[0] == 0:
            raise CheckpointError(
                f"{told} has LoRA matrices of shapes {list(down)} and {list(up)}, which have no "
                "rank in common; save the adapter again."
            )
        product = self._product(change)
        embedding = "lora_embedding_A" in change.keys
        allowed = (product[::-1],) if embedding else (product, product[::-1])
        if len(shape) != 2 or shape not in allowed:
            raise CheckpointError(
                f"{told} changes a matrix of shape {list(product)} and {name!r} of the model has "
                f"{list(shape)}; the adapter belongs to another model, or is a convolution's, "
                "which is not supported."
            )
        outputs = shape[1] if self._transposed(change, shape) else shape[0]
        if magnitude is not None and math.prod(self.tensors[magnitude].shape) != outputs:
            raise CheckpointError(
                f"{told} has magnitudes of shape {list(self.tensors[magnitude].shape)} for "
                f"{outputs} outputs; save the adapter again."
            )

    def _check_bias(self, change: _Change, name: str, shape: tuple[int, ...]) -> None:
        told = f"Adapter of {self.reference!r}: module {shown(change.module)}"
        for part in ("bias", "base_layer.bias", "lora_B.bias"):
            if part in change.keys and self._shape(change, part) != shape:
                raise CheckpointError(
                    f"{told} has a bias of shape {list(self._shape(change, part))} and {name!r} of "
                    f"the model has {list(shape)}; the adapter belongs to another model."
                )
        if "lora_B.bias" in change.keys and "lora_A.weight" not in change.keys:
            raise CheckpointError(f"{told} has a LoRA bias and no LoRA matrices.")

    def _get(self, change: _Change, *parts: str) -> Tensor | None:
        for part in parts:
            if part in change.keys:
                tensor: Tensor = self._open.get_tensor(change.keys[part])
                return tensor.float()
        return None

    @cached_property
    def _open(self) -> Any:
        return safe_open(self.file, framework="pt")


def _alphas(data: Any, where: str) -> tuple[tuple[re.Pattern[str], float], ...]:
    found = []
    for pattern, alpha in _VALUES.mapping(data, where).items():
        try:
            compiled = re.compile(rf"(.*\.)?({pattern})")
        except (re.error, OverflowError, RecursionError):
            raise CheckpointError(
                f"`{where}` has the pattern {shown(pattern)}, which is no regular expression."
            ) from None
        found.append((compiled, _VALUES.real(alpha, f"{where}.{pattern}")))
    return tuple(found)


def _check_supported(config: Mapping[str, Any], folder: Path) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"The adapter {folder} has peft_type {shown(kind)}; only LORA is supported, so merge "
            "it into its model with PEFT and give the result."
        )
    for key in _REFUSED:
        if config.get(key):
            raise CheckpointError(
                f"The adapter {folder} sets {key!r}, which is not supported; merge it into its "
                "model with PEFT and give the result."
            )
    start = config.get("init_lora_weights", True)
    if start not in _KEEPING_BASE:
        raise CheckpointError(
            f"The adapter {folder} has init_lora_weights {shown(start)}, which changes the "
            "model's own "
            "weights; convert it to plain LoRA with PEFT (path_initial_model_for_weight_"
            "conversion)."
        )


def _changes(
    checkpoint: Checkpoint, tensors: Mapping[str, TensorInfo], file: Path
) -> tuple[dict[str, _Change], dict[str, _Change]]:
    by_normal = {normal(name, checkpoint): name for name in checkpoint.tensors}
    found: tuple[dict[str, _Change], dict[str, _Change]] = ({}, {})
    for key in tensors:
        match = _KEY.fullmatch(key)
        if match is None:
            raise CheckpointError(
                f"{file}: tensor {shown(key)} is of a kind that is not supported; merge the "
                "adapter into its model with PEFT and give the result."
            )
        module = match["module"]
        part = match["part"].removeprefix("modules_to_save.")
        part = "lora_magnitude_vector" if "magnitude" in part else part
        leaf = "bias" if part.endswith("bias") else "weight"
        wanted = f"{module}.{leaf}"
        name = wanted if wanted in checkpoint.tensors else by_normal.get(normal(wanted, checkpoint))
        if name is None:
            raise CheckpointError(
                f"{file}: tensor {shown(key)} changes {shown(wanted)}, which "
                f"{checkpoint.reference!r} does "
                "not have on disk (a tied head, or another model)."
            )
        change = found[leaf == "bias"].setdefault(name, _Change(module))
        change.keys[part] = key
    for change in found[1].values():
        weight = next((c for c in found[0].values() if c.module == change.module), None)
        if "lora_B.bias" in change.keys and weight is not None:
            change.keys.update(
                {part: key for part, key in weight.keys.items() if part == "lora_A.weight"}
            )
    return found
