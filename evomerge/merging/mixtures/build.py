"""The checkpoint of a mixture: names of its own for tensors that lie in the files of dense models.

So it is written like any other model, tensor by tensor. Only the routers are new tensors; they get
a small file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from evomerge.errors import RecipeError
from evomerge.merging.architecture.loading import Loader
from evomerge.merging.kernels.compiled import Array
from evomerge.merging.mixtures.mixture import Expert, Mixture
from evomerge.merging.mixtures.shapes import Shape
from evomerge.merging.tensors.adapters import adapter_patches
from evomerge.merging.tensors.reader import Patch
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap
from evomerge.models.safetensors import TensorInfo, read_header
from evomerge.models.stacks import is_buffer
from evomerge.parsing.values import shown

if TYPE_CHECKING:
    from torch import Tensor

_MLP = "mlp."
_DOWN = "down_proj"

_ACTIVATION = "silu"
"""What all types of dense models have that name no `hidden_act`."""


@dataclass(frozen=True)
class _Origin:
    """Where a tensor of a mixture comes from.

    Attributes:
        expert: number of its expert, the shared one last; -1: it is not part of an expert.
    """

    model: str
    name: str
    expert: int = -1


class MixtureBuilder:
    """Makes the checkpoint of a mixture.

    Args:
        checkpoints: the base and the models of the experts, by reference.

    Raises:
        RecipeError: a model lacks a tensor that the mixture needs, or has it in another shape;
            transformers has no place in the mixture for a tensor of the base or of an expert; or
            an expert has another activation function than the base.
        CheckpointError: as for `Shape.config`.
    """

    def __init__(
        self, mixture: Mixture, shape: Shape, checkpoints: Mapping[str, Checkpoint]
    ) -> None:
        self.mixture, self.shape, self.checkpoints = mixture, shape, checkpoints
        self.base = checkpoints[mixture.base]
        self.stack = self.base.decoder_stack
        self.config = shape.config(mixture, self.base)
        fits = {name: TensorNameMap(self.base, checkpoints[name]) for name in mixture.models}
        self._origins = dict(self._of_base())
        for number, expert in enumerate(mixture.every):
            self._origins |= self._of_expert(number, expert, fits[expert.model])
        self._new = self._new_tensors()
        self._check_places()

    def checkpoint(self, routers: Array, seed: int, file: Path) -> tuple[Checkpoint, Patch | None]:
        """Return the checkpoint of the mixture, and what changes its tensors as they are read.

        Args:
            routers: see `make_routers`.
            seed: of the noise.
            file: where the new tensors are written to.
        """
        count = len(self.mixture.experts)
        arrays = {name: np.zeros(size, dtype=np.float32) for name, size in self._new.items()}
        for layer, vectors in enumerate(routers):
            arrays[self._router(layer)] = np.ascontiguousarray(vectors[:count])
            if self.shape.shared:
                arrays[self._router(layer, "shared_expert_gate")] = np.array(vectors[count:])
        save_file(arrays, file)
        stored = {
            name: replace(self._info(origin), stored=origin.name)
            for name, origin in self._origins.items()
        }
        mixed = replace(
            self.base,
            config=self.config,
            tensors={**stored, **read_header(file)},
            adapter=None,
            original=None,
        )
        patches = adapter_patches(self.checkpoints)
        is_changed = any(e.residual_scale != 1 or e.noise_scale for e in self.mixture.every)
        return mixed, self._patch(patches, seed) if patches or is_changed else None

    def _router(self, layer: int, name: str = "gate") -> str:
        return self.stack.name(layer, f"{self.shape.block}.{name}.weight")

    def _of_base(self) -> Mapping[str, _Origin]:
        replaced = {
            self.stack.name(layer, f"{_MLP}{name}.weight")
            for layer in range(len(self.stack))
            for name in self.shape.projections
        }
        return {
            name: _Origin(self.mixture.base, name)
            for name, info in self.base.tensors.items()
            if name not in replaced and not is_buffer(name, info)
        }

    def _of_expert(self, number: int, expert: Expert, fit: TensorNameMap) -> dict[str, _Origin]:
        shared = number == len(self.mixture.experts)
        place = f"{self.shape.block}.{'shared_expert' if shared else f'experts.{number}'}"
        depth = len(fit.stacks[self.stack.prefix])
        if depth != len(self.stack):
            raise RecipeError(
                f"Expert {expert.model!r} has {depth} layers, but the base {self.mixture.base!r} "
                f"has {len(self.stack)}; take models of one size."
            )
        self._check_same_function(expert.model, fit)
        found = {}
        for layer in range(depth):
            for dense, new in self.shape.projections.items():
                suffix = f"{_MLP}{dense}.weight"
                origin = _Origin(
                    expert.model, fit.inside(self.stack.prefix, layer, suffix) or "", number
                )
                self._check_shape(origin, self.stack.name(layer, suffix))
                name = dense if shared else new
                found[self.stack.name(layer, f"{place}.{name}.weight")] = origin
        return found

    def _check_same_function(self, model: str, fit: TensorNameMap) -> None:
        """Check that the MLPs of an expert are what the mixture computes of its matrices."""
        own, wanted = (
            self.checkpoints[name].config.get("hidden_act", _ACTIVATION)
            for name in (model, self.mixture.base)
        )
        if own != wanted:
            raise RecipeError(
                f"`hidden_act` is {shown(own)} in the expert {model!r}, but {shown(wanted)} in the "
                f"base {self.mixture.base!r}, and a mixture has one for all experts; take models "
                "with the same one."
            )
        used = {f"{_MLP}{dense}.weight" for dense in self.shape.projections}
        stack = fit.stacks[self.stack.prefix]
        for suffix in stack.blocks[0]:
            if suffix.startswith(_MLP) and suffix not in used:
                raise RecipeError(
                    f"Expert {model!r} has the tensor {stack.name(0, suffix)!r}, for which a "
                    f"{self.shape.name} has no place, so the mixture would compute something "
                    "else; take models without it."
                )

    def _check_shape(self, origin: _Origin, name: str) -> None:
        """Check that an expert has a tensor in the shape that the base has it in."""
        base = self.mixture.base
        if name not in self.base.tensors or not origin.name:
            lacking = origin.model if name in self.base.tensors else base
            raise RecipeError(
                f"{lacking!r} has no tensor {name!r}, of which a mixture makes an expert; take "
                "dense models of one of the types that `evomerge moe --help` names."
            )
        own, wanted = self._info(origin).shape, self.base.tensors[name].shape
        if own != wanted:
            raise RecipeError(
                f"Tensor {name!r} is {list(own)} in the expert {origin.model!r}, but "
                f"{list(wanted)} in the base {base!r}; take models of one size."
            )

    def _info(self, origin: _Origin) -> TensorInfo:
        return self.checkpoints[origin.model].tensors[origin.name]

    def _new_tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors that no model has, by name."""
        embedding = self.base.embedding
        assert embedding is not None
        hidden = self.base.tensors[embedding].shape[1]
        found: dict[str, tuple[int, ...]] = {}
        for layer in range(len(self.stack)):
            found[self._router(layer)] = (len(self.mixture.experts), hidden)
            if not self.shape.shared:
                continue
            found[self._router(layer, "shared_expert_gate")] = (1, hidden)
            for name in ("q_proj", "k_proj", "v_proj"):  # which Llama has without biases
                bias, weight = (
                    self.stack.name(layer, f"self_attn.{name}.{end}") for end in ("bias", "weight")
                )
                if bias not in self.base.tensors and weight in self.base.tensors:
                    found[bias] = self.base.tensors[weight].shape[:1]
        return found

    def _check_places(self) -> None:
        """Check that transformers has a place for each tensor, and that it needs no other one."""
        shapes = {name: self._info(origin).shape for name, origin in self._origins.items()}
        faults = Loader.of(self.config, {}).find_faults({**shapes, **self._new})
        for name in sorted(faults):
            raise RecipeError(
                f"`base_model` {self.mixture.base!r}: the tensor {name!r} does not fit a "
                f"{self.shape.name} (it lacks it, has no place for it, or needs another shape), so "
                "the mixture would compute something else; take another base."
            )

    def _patch(self, patches: Mapping[str, Patch], seed: int) -> Patch:
        """Return what adds adapters and noise, and scales, when a tensor is read."""
        import torch

        def patch(name: str, tensor: Tensor) -> Tensor:
            origin = self._origins.get(name)
            if origin is None:
                return tensor
            if origin.model in patches:
                tensor = patches[origin.model](origin.name, tensor)
            if origin.expert < 0:
                return tensor
            expert = self.mixture.every[origin.expert]
            if expert.noise_scale:
                noise = _noise(seed, name, tensor.shape)
                tensor = tensor.float() + expert.noise_scale * torch.from_numpy(noise)
            if expert.residual_scale != 1 and f".{_DOWN}." in origin.name:
                tensor = tensor.float() * expert.residual_scale
            return tensor

        return patch


def _noise(seed: int, name: str, shape: tuple[int, ...]) -> Array:
    """Return standard normal numbers that depend on seed and name only."""
    key = hashlib.sha256(json.dumps([seed, name]).encode()).digest()
    draw = np.random.default_rng(int.from_bytes(key[:16], "little"))
    return draw.standard_normal(shape, dtype=np.float32)
