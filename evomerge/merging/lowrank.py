"""What a merge changes in its base, as a LoRA adapter: the change of each matrix, cut to a rank.

A change D of a matrix becomes B A, the nearest matrix of a rank (Eckart and Young 1936), by the
singular values of D. Large matrices take a randomized range finder (Halko et al. 2011, arXiv
0909.4061, algorithm 4.4) with a fixed seed. If the merge is linear in adapters of the base, D has
no larger rank than these have together, so nothing is cut. Vectors (norms, biases) are kept whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.layout import build_layout
from evomerge.merging.backend import unchanged
from evomerge.merging.kernels.torch_views import as_tensor
from evomerge.merging.members import Members
from evomerge.merging.tensors.adapters import adapter_patches
from evomerge.merging.tensors.maker import TensorMaker, WholeAngles
from evomerge.merging.tensors.plan import Planner, TensorPlan
from evomerge.merging.tensors.reader import DTYPES, TensorReader
from evomerge.merging.tensors.threads import count_threads
from evomerge.merging.tokenizers.plan import plan_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import normal
from evomerge.recipe import Recipe

_EXACT = 256
"""Largest smaller side of a matrix whose singular values are all computed, unless these are less
than four times as many as are needed: there the range finder saves no time."""

_MORE, _ROUNDS = 16, 4
"""Further columns and rounds of the range finder, with which it loses at most 1 % more than the
best cut does (`tests/merging/test_lowrank.py`)."""

_PREFIX, _DOWN = "base_model.model.", ("lora_A.weight", "lora_embedding_A")


@dataclass(frozen=True)
class Factors:
    """The product `up @ down` that is nearest to a matrix.

    Attributes:
        up: (rows, rank), float32.
        down: (rank, columns), float32.
        lost: squared Frobenius norm of what the product lacks.
    """

    up: Tensor
    down: Tensor
    lost: float


def factors(change: Tensor, rank: int, rounding: float = 0.0) -> Factors:
    """Return the nearest product of at most a rank.

    Args:
        change: (rows, columns), float32.
        rounding: singular values up to this are rounding errors, and are left out.
    """
    if min(change.shape) <= max(_EXACT, 4 * (rank + _MORE)):
        up, values, down = torch.linalg.svd(change, full_matrices=False)
    else:
        generator = torch.Generator().manual_seed(0)
        basis = change @ torch.randn(change.shape[1], rank + _MORE, generator=generator)
        for _ in range(_ROUNDS):
            basis = torch.linalg.qr(change.T @ torch.linalg.qr(basis).Q).Q
            basis = change @ basis
        basis = torch.linalg.qr(basis).Q
        inner, values, down = torch.linalg.svd(basis.T @ change, full_matrices=False)
        up = basis @ inner
    count = min(rank, int((values > rounding).sum()))
    root = values[:count].sqrt()
    up, down = up[:, :count] * root, root[:, None] * down[:count]
    return Factors(up, down, float((change - up @ down).double().square().sum()))


@dataclass
class LowRank:
    """A LoRA adapter as PEFT reads it.

    Attributes:
        rank: of every matrix; smaller ones are filled with zeros.
        tensors: name in the adapter's file -> tensor.
        targets, saved: last names of the modules that are changed by a product, or saved whole.
        is_tied: whether the head is tied to embeddings that are changed.
        errors: name of a changed tensor of the model -> squared norm of what was lost, and of the
            change.
    """

    rank: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    targets: set[str] = field(default_factory=set)
    saved: set[str] = field(default_factory=set)
    has_biases: bool = False
    is_tied: bool = False
    is_transposed: bool = False
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def error(self) -> float:
        """Norm of what was lost, as a share of the norm of the whole change."""
        return share(self.errors.values())

    def config(self) -> dict[str, Any]:
        """Return `adapter_config.json`, but for the base and the task."""
        return {
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "bias": "all" if self.has_biases else "none",
            "target_modules": sorted(self.targets),
            "modules_to_save": sorted(self.saved) or None,
            "fan_in_fan_out": self.is_transposed,
            "inference_mode": True,
            **({"ensure_weight_tying": True} if self.is_tied else {}),
        }

    def save(self, folder: Path) -> None:
        """Write `adapter_model.safetensors`."""
        (folder / "adapter_model.safetensors").write_bytes(save(self.tensors, {"format": "pt"}))


def share(errors: Any) -> float:
    """Return the root of (the sum of what was lost / the sum of the changes); 0 if none changed."""
    lost, change = (math.fsum(part) for part in zip(*errors, strict=True)) if errors else (0, 0)
    return math.sqrt(lost / change) if change else 0.0


def low_rank(
    recipe: Recipe,
    base: str,
    checkpoints: Mapping[str, Checkpoint],
    rank: int,
    *,
    vectors: bool = True,
) -> LowRank:
    """Return the adapter that turns a base into the model of a recipe, computed in float32.

    Args:
        base: reference of the model that the adapter is for; one of the checkpoints.
        rank: largest rank of a change.
        vectors: keep the changes of norms and biases; else they are lost.

    Raises:
        CheckpointError: the merge differs from the base in what no adapter can change: its number
            of layers, its vocabulary, tensors that are neither matrices of layers nor vectors.
        CandidateError: a merged weight is not finite.
    """
    recipe = replace(recipe, dtype="float32")
    _check_shape(recipe, base, checkpoints)
    host, patches = checkpoints[recipe.host], adapter_patches(checkpoints)
    members = Members(checkpoints, None, None, patches) if recipe.members else None
    try:
        every = {**checkpoints, **(members.open(recipe) if members else {})}
        planner = Planner(every, recipe.host)
        maker = TensorMaker(planner, TensorReader(every, patches))
        plans = WholeAngles().complete(planner.plan(recipe), maker, count_threads())
        own = Planner(every, base)
        before = {
            normal(item.name, own.host): item for item in own.plan(unchanged(own.host, "float32"))
        }
        parts = _Parts(host)
        adapter = LowRank(is_transposed=parts.is_transposed)
        for plan in plans:
            own_plan = before.get(normal(plan.name, host))
            if own_plan is None or own_plan.shape != plan.shape:
                raise CheckpointError(
                    f"The merge has {plan.name!r} {list(plan.shape)}, which {base!r} lacks; "
                    "give the base that it was made from, or write a checkpoint."
                )
            copied = plan.method in (None, "passthrough") and plan.factor == 1
            if not copied or plan.sources != own_plan.sources:
                old, new = _made(maker, own_plan), _made(maker, plan)
                if not torch.equal(old, new):
                    _add(adapter, parts, plan.name, old, new, rank, vectors)
            for source in plan.inputs:
                maker.reader.release(source)
    finally:
        if members:
            members.close()
    if not adapter.tensors:
        what = "nothing" if vectors else "no matrix"
        raise CheckpointError(
            f"The merge changes {what} in {base!r}, so there is no adapter to write; give another "
            "base or model."
        )
    _fill(adapter, parts)
    return adapter


def _check_shape(recipe: Recipe, base: str, checkpoints: Mapping[str, Checkpoint]) -> None:
    host, stacks = checkpoints[recipe.host], checkpoints[base].stacks
    for prefix, blocks in recipe.layers.items():
        count = len(checkpoints[base].decoder_stack if len(recipe.layers) == 1 else stacks[prefix])
        if len(blocks) != count:
            raise CheckpointError(
                f"The merge has {len(blocks)} layers and {base!r} has {count}, but an adapter "
                "keeps their number; write a checkpoint instead."
            )
    if plan_tokenizer(recipe, checkpoints).rows is not None or host.vocabulary != (
        checkpoints[base].vocabulary
    ):
        raise CheckpointError(
            f"The merge has another vocabulary than {base!r}, but an adapter keeps that of its "
            "base; write a checkpoint instead."
        )


def _made(maker: TensorMaker, plan: TensorPlan) -> Tensor:
    """Return a tensor of a plan, float32."""
    if plan.method is None:
        array = maker.read(plan, plan.sources[0])
    else:
        array = np.empty(plan.shape, dtype=DTYPES[plan.dtype])
        maker.write(plan, maker.prepare(plan, reuse=False), array)
    return as_tensor(array, plan.dtype).float()


class _Parts:
    """The modules of the model that transformers builds, and in which of them a tensor is."""

    def __init__(self, host: Checkpoint) -> None:
        floating = {name: info for name, info in host.tensors.items() if info.floating}
        shapes = {name: info.shape for name, info in floating.items()}
        self.layout = build_layout(host.config, shapes, {}, torch.float32)
        self.modules = dict(self.layout.module.named_modules())
        self.weights = dict(self.layout.module.named_parameters())
        self.is_tied = host.tied
        self.is_transposed = any(type(item).__name__ == "Conv1D" for item in self.modules.values())

    def find(self, name: str) -> tuple[str, str]:
        """Return the module of a tensor, and the name in it; CheckpointError: it is not a whole."""
        location = self.layout.locations.get(name)
        weight = self.weights.get(location.parameter) if location else None
        if location is None or weight is None or tuple(weight.shape) != location.size:
            raise CheckpointError(
                f"{name!r} of the merge differs from the base, and in transformers' model it is a "
                "part of a larger tensor, which an adapter cannot change; write a checkpoint."
            )
        module, _, own = location.parameter.rpartition(".")
        return module, own

    def named(self, last: str) -> Iterator[tuple[str, nn.Module]]:
        """Yield the modules with this last name."""
        return ((n, item) for n, item in self.modules.items() if n.rpartition(".")[2] == last)


def _add(
    adapter: LowRank,
    parts: _Parts,
    name: str,
    old: Tensor,
    new: Tensor,
    rank: int,
    vectors: bool,
) -> None:
    """Add what changes one tensor of the model."""
    module, own = parts.find(name)
    last = module.rpartition(".")[2]
    change = new - old
    size = float(change.double().square().sum())
    kind = parts.modules[module]
    if change.ndim == 1 and not vectors:
        adapter.errors[name] = (size, size)
        return
    if change.ndim == 1:
        adapter.tensors[f"{_PREFIX}{module}.{own}"] = new.contiguous()
        if own == "bias" and _is_matrix(kind):
            adapter.has_biases = True
        else:
            adapter.saved.add(last)
        adapter.errors[name] = (0.0, size)
        return
    if change.ndim != 2 or own != "weight" or not _is_matrix(kind):
        raise CheckpointError(
            f"{name!r} of the merge differs from the base, and LoRA cannot change a "
            f"{type(kind).__name__}; write a checkpoint."
        )
    # Rounding of the sum base + change is random, so its largest singular value is about this.
    rows, columns = change.shape
    wide = (math.sqrt(rows) + math.sqrt(columns)) / math.sqrt(rows * columns)
    rounding = 2**-22 * wide * max(float(torch.linalg.vector_norm(item)) for item in (old, new))
    is_embedding = isinstance(kind, nn.Embedding)
    transposed = is_embedding or type(kind).__name__ == "Conv1D"
    found = factors(change.T if transposed else change, rank, rounding)
    adapter.errors[name] = (found.lost, size)
    adapter.targets.add(last)
    adapter.tensors |= _pair(module, found.up, found.down, embedding=is_embedding)
    if is_embedding and parts.is_tied:
        adapter.is_tied = True
        head = next(n for n, item in parts.named("lm_head") if isinstance(item, nn.Linear))
        adapter.targets.add("lm_head")
        adapter.tensors |= _pair(head, found.down.T, found.up.T, embedding=False)


def _is_matrix(kind: nn.Module) -> bool:
    return isinstance(kind, (nn.Linear, nn.Embedding)) or type(kind).__name__ == "Conv1D"


def _pair(module: str, up: Tensor, down: Tensor, *, embedding: bool) -> dict[str, Tensor]:
    a, b = ("embedding_A", "embedding_B") if embedding else ("A.weight", "B.weight")
    return {
        f"{_PREFIX}{module}.lora_{a}": down.contiguous(),
        f"{_PREFIX}{module}.lora_{b}": up.contiguous(),
    }


def _fill(adapter: LowRank, parts: _Parts) -> None:
    """Give all products one rank, and products of zeros to modules with the name of a target.

    PEFT takes every module with such a name, and programs that serve adapters want one rank.
    """
    ranks = [len(item) for name, item in adapter.tensors.items() if name.endswith(_DOWN)]
    adapter.rank = max([1, *ranks])
    for last in adapter.targets:
        for module, kind in parts.named(last):
            if not _is_matrix(kind):
                continue
            embedding = isinstance(kind, nn.Embedding)
            shape = tuple(kind.get_parameter("weight").shape)
            rows, columns = shape if isinstance(kind, nn.Linear) else shape[::-1]
            empty = torch.zeros(rows, 0), torch.zeros(0, columns)
            for name, item in _pair(module, *empty, embedding=embedding).items():
                kept = adapter.tensors.get(name, item)
                axis = 0 if name.endswith(_DOWN) else 1
                missing = adapter.rank - kept.shape[axis]
                pad = (0, missing) if axis else (0, 0, 0, missing)
                adapter.tensors[name] = nn.functional.pad(kept, pad)
    for key in [k for k in adapter.tensors if k.endswith(".bias")]:
        module = key.removeprefix(_PREFIX).removesuffix(".bias")
        if module.rpartition(".")[2] in adapter.targets:  # where PEFT keeps that of a target
            adapter.tensors[f"{_PREFIX}{module}.base_layer.bias"] = adapter.tensors.pop(key)
