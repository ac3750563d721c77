"""A LoRA adapter as PEFT reads it: which modules its config names, and which tensors its file has.

PEFT finds modules by the ends of their paths. It adds a product to each module of `target_modules`,
and replaces each module of `modules_to_save`, of which the file must have every tensor. Of a model
that classifies, it always replaces the head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors.torch import save
from torch import Tensor, nn

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.layout import layout_of
from evomerge.merging.lowrank import factors, squared
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.heads import classified

_PREFIX = "base_model.model."
_LINEAR, _EMBEDDING = ("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")
_HEADS = ("classifier", "score")
_CLASSES = {"texts": "SEQ_CLS", "tokens": "TOKEN_CLS"}

Part: TypeAlias = Literal["vectors", "embeddings"]
"""What an adapter may leave out."""


class AdapterFile:
    """The config and the tensors of an adapter. Changes of a model are added one by one.

    Args:
        host: the changed model.
        limit: largest rank of a product.
        whole: ends of the paths of modules that are replaced, not changed by a product.
        without: what is left out, and counts as lost: `vectors` (norms and biases), `embeddings`
            (with the head of a language model).

    Attributes:
        rank: of all products; smaller ones are filled with zeros.
        errors: name of a changed tensor of the checkpoint -> squared norm of what was lost, and of
            the change.
        has_embeddings: whether a product changes embeddings, or the head of a language model.
    """

    def __init__(
        self,
        host: Checkpoint,
        limit: int,
        *,
        whole: Collection[str] = (),
        without: Collection[Part] = (),
    ) -> None:
        layout = layout_of(host)
        self.rank, self.errors = 1, dict[str, tuple[float, float]]()
        self._limit, self._without, self.has_embeddings = limit, without, False
        self._embeddings = {host.embedding, host.head}
        self._model, self._locations = layout.module, layout.locations
        self._modules = dict(layout.module.named_modules())
        self._weights = dict(layout.module.named_parameters())
        self._users: dict[int, list[tuple[str, str]]] = {}
        for name, weight in layout.module.named_parameters(remove_duplicate=False):
            module, _, own = name.rpartition(".")
            self._users.setdefault(id(weight), []).append((module, own))
        self._class = _CLASSES.get(classified(host) or "")
        self._replaced = self._ending(_HEADS) if self._class else set[str]()
        self._whole = self._replaced | self._ending(whole)
        self._products: dict[str, tuple[Tensor, Tensor]] = {}
        self._biases: dict[str, Tensor] = {}
        self._tensors: dict[str, Tensor] = {}
        self._is_tied = False

    def add(self, name: str, old: Tensor, new: Tensor) -> None:
        """Add the change of a tensor of the checkpoint, float32.

        Raises:
            CheckpointError: no adapter can change it.
        """
        users = self._users_of(name)
        path, own = users[0]
        kind, change = self._modules[path], new - old
        size, is_embedding = squared(change), name in self._embeddings
        self.errors[name] = (0.0, size)
        if is_embedding and "embeddings" in self._without and not _within(path, self._whole):
            self.errors[name] = (size, size)
            return
        self._is_tied |= len(users) > 1 and change.ndim == 2
        is_position = isinstance(kind, nn.Embedding) and not _is_matrix(kind)
        if _within(path, self._whole):
            self._replace(users, new)
        elif change.ndim == 1 and "vectors" in self._without:
            self.errors[name] = (size, size)
        elif own == "bias" and (_is_matrix(kind) or any(kind.children())):
            self._biases[path] = new.contiguous()
        elif is_position or (change.ndim == 1 and not any(kind.children())):
            self._replace(users, new)
        elif change.ndim == 2 and own == "weight" and _is_matrix(kind):
            # Rounding of base + change is random, so its largest singular value is about this.
            rows, columns = change.shape
            wide = (math.sqrt(rows) + math.sqrt(columns)) / math.sqrt(rows * columns)
            largest = max(float(torch.linalg.vector_norm(item)) for item in (old, new))
            found = factors(change, self._limit, 2**-22 * wide * largest)
            self.errors[name] = (found.lost, size)
            self.rank = max(self.rank, found.up.shape[1])
            self._products |= {module: (found.up, found.down) for module, _ in users}
            self.has_embeddings |= is_embedding
        else:
            raise CheckpointError(
                f"{name!r} of the merge differs from the base, and LoRA cannot change "
                f"{own!r} of a {type(kind).__name__}; write a checkpoint."
            )

    def _users_of(self, name: str) -> list[tuple[str, str]]:
        """Return the modules that use a tensor, with its name in each, those of matrices first."""
        location = self._locations.get(name)
        weight = self._weights.get(location.parameter) if location else None
        if location is None or weight is None or tuple(weight.shape) != location.size:
            raise CheckpointError(
                f"{name!r} of the merge differs from the base, but it is not a whole tensor of the "
                "model that transformers builds, as an adapter needs it; write a checkpoint."
            )
        users = self._users[id(weight)]
        return sorted(users, key=lambda user: not _is_matrix(self._modules[user[0]]))

    def _replace(self, users: Iterable[tuple[str, str]], new: Tensor) -> None:
        for path, own in users:
            self._replaced.add(_within(path, self._whole) or path)
            self._tensors[f"{path}.{own}"] = new.clone()  # each in memory of its own

    def finish(self, read: Callable[[str], Tensor]) -> None:
        """Complete the tensors; nothing can be added any more.

        Args:
            read: name of a tensor of the checkpoint -> the base's, float32.
        """
        on_disk = {place.parameter: name for name, place in self._locations.items()}
        self._replaced = self._ending(self.saved)
        for path in self._replaced:
            for own, buffer in self._modules[path].state_dict().items():
                name = on_disk.get(f"{path}.{own}")
                self._tensors.setdefault(f"{path}.{own}", read(name) if name else buffer)
        for path, bias in self._biases.items():
            inner = ".base_layer" if path in self._products else ""
            self._tensors[f"{path}{inner}.bias"] = bias
        for path, (up, down) in self._products.items():
            kind = self._modules[path]
            a, b = (down, up) if isinstance(kind, nn.Linear) else (up.T, down.T)
            names = _EMBEDDING if isinstance(kind, nn.Embedding) else _LINEAR
            filled = a.new_zeros(self.rank, a.shape[1]), b.new_zeros(len(b), self.rank)
            filled[0][: len(a)], filled[1][:, : b.shape[1]] = a, b
            self._tensors |= {
                f"{path}.{name}": item for name, item in zip(names, filled, strict=True)
            }

    @property
    def targets(self) -> list[str]:
        """Names of the modules that are changed by a product, as in `target_modules`."""
        free = [path for path in self._modules if not _within(path, self._replaced)]
        return _names(self._products, free, ".")

    @property
    def saved(self) -> list[str]:
        """Names of the modules that are replaced, as in `modules_to_save`."""
        return _names(self._replaced, self._modules, "")

    @property
    def task(self) -> str | None:
        """PEFT's name of the model's task; None: it has none for this class."""
        from transformers.models.auto import modeling_auto

        name = type(self._model).__name__
        if name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
            return "CAUSAL_LM"
        if name in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values():
            return "SEQ_2_SEQ_LM"
        return self._class

    @property
    def error(self) -> float:
        """Norm of what was lost, as a share of the norm of the whole change."""
        return share(self.errors.values())

    def config(self) -> dict[str, Any]:
        """Return `adapter_config.json`, but for the base."""
        kind, task = type(self._model), self.task
        classes = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
        conv = any(type(self._modules[path]).__name__ == "Conv1D" for path in self._products)
        return {
            "peft_type": "LORA",
            "task_type": task,
            "auto_mapping": None if task else classes,
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "bias": "all" if self._biases else "none",
            "target_modules": self.targets,
            "modules_to_save": self.saved or None,
            "fan_in_fan_out": conv,
            "inference_mode": True,
            **({"ensure_weight_tying": True} if self._is_tied else {}),
        }

    def save(self, folder: Path) -> None:
        """Write `adapter_model.safetensors`."""
        tensors = {_PREFIX + name: item for name, item in self._tensors.items()}
        (folder / "adapter_model.safetensors").write_bytes(save(tensors, {"format": "pt"}))

    def _ending(self, ends: Iterable[str]) -> set[str]:
        """Return the modules that PEFT finds for names in `modules_to_save`."""
        return {path for path in self._modules if path.endswith(tuple(ends))}


def _names(chosen: Collection[str], every: Collection[str], before: str) -> list[str]:
    """Return names by which PEFT finds the chosen modules: last names where they suffice.

    Args:
        before: what stands before a name in the paths that it finds.
    """
    names = set()
    for path in chosen:
        last = path.rpartition(".")[2]
        found = {other for other in every if f".{other}".endswith(f"{before}{last}")}
        names.add(last if found <= set(chosen) else path)
    return sorted(names)


def _within(path: str, modules: Iterable[str]) -> str | None:
    """Return which of some modules is a module, or has it inside; None: no one."""
    return next((item for item in modules if f"{path}.".startswith(f"{item}.")), None)


def share(errors: Any) -> float:
    """Return the root of (the sum of what was lost / the sum of the changes); 0 if none changed."""
    lost, change = (math.fsum(part) for part in zip(*errors, strict=True)) if errors else (0, 0)
    return math.sqrt(lost / change) if change else 0.0


def _is_matrix(kind: nn.Module) -> bool:
    """Whether PEFT can add a product to a module.

    It calls embeddings with the numbers of rows. Those of positions in BART are called with other
    things; PEFT knows the scaled ones.
    """
    if isinstance(kind, nn.Embedding):
        return type(kind).forward is nn.Embedding.forward or hasattr(kind, "embed_scale")
    return isinstance(kind, nn.Linear) or type(kind).__name__ == "Conv1D"
