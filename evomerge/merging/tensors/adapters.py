"""Parents with a LoRA adapter (`model+adapter`): each tensor is changed when it is read.

Supported are LoRA (Hu et al. 2021, arXiv 2106.09685) on linear layers, Conv1D and embeddings, with
rank and alpha patterns, rank-stabilized scaling (Kalajdzievski 2023, arXiv 2312.03732), DoRA (Liu
et al. 2024, arXiv 2402.09353), biases, and modules that are saved whole. No merged copy of the
parent is written to disk. What is not supported raises an error that names it, so that no part of
an adapter is ignored silently.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import regex
from safetensors import safe_open

from evomerge.errors import CheckpointError
from evomerge.merging.tensors.reader import Patch
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import normal
from evomerge.models.encoder_decoder import is_encoder_decoder
from evomerge.models.safetensors import read_header, read_json
from evomerge.parsing.values import Values, shown

if TYPE_CHECKING:
    from torch import Tensor

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_VALUES = Values(CheckpointError)
_UNSUPPORTED_KEYS = (
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
_KEEPING_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` with which PEFT does not change the model's own weights."""

_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+?)\."
    r"(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(?:\.weight)?|base_layer\.weight|base_layer\.bias"
    r"|(?:modules_to_save\.)?(?:weight|bias))"
)

_PATIENCE = 10.0  # seconds; a thousand names and patterns take about one
_COUNT = re.compile(r"[{,]\s*([0-9]+)")
_MOST_REPEATS = 10_000  # `regex` writes some of them out
_LONGEST = 2_000


@dataclass
class _Change:
    """The adapter's tensors for one weight or bias of a module.

    `keys` are names in the adapter's file by part: `A`, `B`, `magnitude` (of DoRA), `bias` (that is
    added to the model's), `whole` (a copy of the model's tensor, which takes its place).
    """

    module: str
    keys: dict[str, str] = field(default_factory=dict)


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
    """The LoRA adapter of a parent. To check it, weights are read of tied embeddings only.

    Raises:
        CheckpointError: the adapter is damaged, of a kind that is not supported, or does not fit
            its model.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        folder = checkpoint.adapter
        assert folder is not None
        self.model, self.reference = checkpoint, checkpoint.reference
        self.file = folder / _WEIGHTS
        if not (folder / _CONFIG).is_file():
            raise CheckpointError(f"Parent {self.reference!r}: {folder} has no {_CONFIG}.")
        self.config = read_json(folder / _CONFIG)
        _check_supported(self.config, folder)
        if not self.file.is_file():
            old = next(folder.glob("adapter_model.bin"), None)
            raise CheckpointError(
                f"Parent {self.reference!r}: {folder} has no {_WEIGHTS}"
                f"{'; save it as safetensors' if old else ''}."
            )
        self.shapes = {name: info.shape for name, info in read_header(self.file).items()}
        self.changes, copies = self._find_changes(checkpoint)
        where = f"{folder / _CONFIG}: "
        self.alpha = _VALUES.real(self.config.get("lora_alpha", 8), f"{where}lora_alpha")
        modules = dict.fromkeys(change.module for change in (*self.changes.values(), *copies))
        patterns = self.config.get("alpha_pattern") or {}
        self.alphas = find_alphas(patterns, modules, f"{where}alpha_pattern")
        for key in ("use_rslora", "fan_in_fan_out"):
            _VALUES.flag(self.config.get(key) or False, f"{where}{key}")
        self.ranks: dict[str, int] = {}
        for name, change in self.changes.items():
            self._check_matrices(change, name, checkpoint.tensors[name].shape)
        for name, change in self.changes.items():
            self._check_copies(change, name, checkpoint.tensors[name].shape)
        self._check_tied(checkpoint, copies)

    def patch(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor of the model after the adapter's change, in float32.

        It is `tensor` itself if the adapter does not change it.
        """
        import torch

        change = self.changes.get(name)
        if change is None:
            return tensor
        weight = self._get(change, "whole") if "whole" in change.keys else tensor.float()
        if "bias" in change.keys:
            return weight + self._get(change, "bias") * self._scale(change)
        if "A" not in change.keys:
            return weight
        transposed = self._transposed(change, tuple(tensor.shape))
        delta = (self._get(change, "B") @ self._get(change, "A")) * self._scale(change)
        changed = weight + (delta.T if transposed else delta)
        if "magnitude" not in change.keys:
            return changed
        # DoRA has a magnitude for each output, or for each column of an embedding.
        lengths = torch.linalg.vector_norm(changed, dim=0 if transposed else 1, keepdim=True)
        magnitude = self._get(change, "magnitude")
        rescaled: Tensor = changed * (magnitude.flatten().view(lengths.shape) / lengths)
        return rescaled

    def _get(self, change: _Change, part: str) -> Tensor:
        tensor: Tensor = self._open.get_tensor(change.keys[part])
        return tensor.float()

    @cached_property
    def _open(self) -> Any:
        return safe_open(self.file, framework="pt")

    @cached_property
    def _stored(self) -> dict[str, tuple[str, bool]]:
        """The tensor on disk of each parameter of transformers' model, by its normal name.

        Behind it is whether another parameter is the same, and the first by name.
        """
        from evomerge.merging.architecture.layout import layout_of

        layout = layout_of(self.model)
        on_disk = {place.parameter: name for name, place in layout.locations.items()}
        first: dict[int, str] = {}
        found = {}
        for name, weight in layout.module.named_parameters(remove_duplicate=False):
            own = first.setdefault(id(weight), name)
            if own in on_disk:
                found[normal(name, self.model)] = on_disk[own], name != own
        return found

    def _scale(self, change: _Change) -> float:
        """Return alpha / rank, or alpha / sqrt(rank) if the adapter is rank-stabilized."""
        alpha, rank = self.alphas.get(change.module, self.alpha), self.ranks[change.module]
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _shape(self, change: _Change, part: str) -> tuple[int, ...]:
        return self.shapes[change.keys[part]]

    def _product(self, change: _Change) -> tuple[int, ...]:
        """Return the shape of B A."""
        return (*self._shape(change, "B")[:1], *self._shape(change, "A")[1:])

    def _transposed(self, change: _Change, shape: tuple[int, ...]) -> bool:
        """Whether the model stores the matrix as (inputs, outputs): embeddings and Conv1D."""
        product = self._product(change)
        if _is_embedding(change.keys["A"]):
            return True
        if product != shape or product[::-1] != shape:
            return product != shape
        return bool(self.config.get("fan_in_fan_out"))

    def _find_changes(self, checkpoint: Checkpoint) -> tuple[dict[str, _Change], list[_Change]]:
        """Return the change of each tensor of the model that is changed, by its name.

        Behind it are those of other modules that use the matrix of the embeddings.
        """
        by_normal = {normal(name, checkpoint): name for name in checkpoint.tensors}
        found: dict[str, _Change] = {}
        copies: dict[str, _Change] = {}
        for key in self.shapes:
            match = _KEY.fullmatch(key)
            if match is None:
                raise CheckpointError(
                    f"{self.file}: tensor {shown(key)} is of a kind that is not supported; merge "
                    "the adapter into its model with PEFT and use the merged model as parent."
                )
            module, part = match["module"], match["part"]
            wanted = f"{module}.{'bias' if part.endswith('bias') else 'weight'}"
            name = wanted if wanted in checkpoint.tensors else None
            name = name or by_normal.get(normal(wanted, checkpoint))
            is_copy = False
            if name is None or (checkpoint.tied and name == checkpoint.head):
                name, is_copy = self._stored.get(normal(wanted, checkpoint), (None, False))
            if name is None:
                raise CheckpointError(
                    f"{self.file}: tensor {shown(key)} changes {shown(wanted)}, which the model of "
                    f"{self.reference!r} does not have; give the model that the adapter was "
                    "trained on, or merge it into that model with PEFT and use the merged model "
                    "as parent."
                )
            change = _Change(module)
            is_copy = is_copy and name == checkpoint.embedding
            keys = (
                copies.setdefault(module, change) if is_copy else found.setdefault(name, change)
            ).keys
            if part == "lora_B.bias":
                keys["bias"] = key
            elif "magnitude" in part:
                keys["magnitude"] = key
            elif part.startswith("lora_"):
                keys[part.removesuffix(".weight")[-1]] = key
            elif "whole" not in keys or part.startswith("base_layer"):
                keys["whole"] = key
        return found, list(copies.values())

    def _check_matrices(self, change: _Change, name: str, shape: tuple[int, ...]) -> None:
        if change.keys.keys().isdisjoint(("A", "B", "magnitude")):
            return
        subject = self._subject(change)
        kinds = {_is_embedding(change.keys.get(half, "")) for half in "AB"}
        if not {"A", "B"} <= change.keys.keys() or len(kinds) > 1:
            raise CheckpointError(
                f"{subject} has only one of the two LoRA matrices, or matrices of two kinds of "
                "layers; save the adapter again."
            )
        down, up = self._shape(change, "A"), self._shape(change, "B")
        if len(down) != 2 or len(up) != 2 or down[0] != up[1] or down[0] == 0:
            raise CheckpointError(
                f"{subject} has LoRA matrices of shapes {list(down)} and {list(up)}, which have no "
                "rank in common; save the adapter again."
            )
        self.ranks[change.module] = down[0]
        product = self._product(change)
        allowed = (product[::-1],) if True in kinds else (product, product[::-1])
        if len(shape) != 2 or shape not in allowed:
            raise CheckpointError(
                f"{subject} changes a matrix of shape {list(product)}, but {name!r} of the model "
                f"has {list(shape)}; the adapter belongs to another model, or changes a "
                "convolution, which is not supported."
            )
        outputs = shape[1] if self._transposed(change, shape) else shape[0]
        magnitude = self._shape(change, "magnitude") if "magnitude" in change.keys else (outputs,)
        if math.prod(magnitude) != outputs:
            raise CheckpointError(
                f"{subject} has magnitudes of shape {list(magnitude)} for {outputs} outputs; save "
                "the adapter again."
            )

    def _check_copies(self, change: _Change, name: str, shape: tuple[int, ...]) -> None:
        for part in change.keys.keys() & {"whole", "bias"}:
            if self._shape(change, part) != shape:
                raise CheckpointError(
                    f"{self._subject(change)} has a tensor of shape "
                    f"{list(self._shape(change, part))}, but {name!r} of the model has "
                    f"{list(shape)}; resize the model's vocabulary first, or merge the adapter "
                    "into its own model with PEFT."
                )
        if "bias" in change.keys and change.module not in self.ranks:
            raise CheckpointError(
                f"{self._subject(change)} has a LoRA bias, but no LoRA matrices; save the adapter "
                "again."
            )

    def _check_tied(self, checkpoint: Checkpoint, copies: Sequence[_Change]) -> None:
        """Check that all modules which use the matrix of the embeddings are changed alike."""
        name = checkpoint.embedding or ""
        own = self.changes.get(name)
        for copy in copies:
            self._check_matrices(copy, name, checkpoint.tensors[name].shape)
        has_head = checkpoint.head is not None and not checkpoint.tied
        if not copies and (own is None or (has_head and not is_encoder_decoder(checkpoint))):
            return
        users = [stored for stored, _ in self._stored.values()].count(name)
        alike = own is not None and all(self._are_alike(own, copy) for copy in copies)
        if not alike or users != 1 + len(copies):
            raise CheckpointError(
                f"Adapter of {self.reference!r} changes embeddings and head in different ways, but "
                "they are one matrix of the model (tied), so no checkpoint of it computes what "
                "PEFT does; train it with `ensure_weight_tying: true`, or on a copy of the model "
                "whose head is a matrix of its own."
            )

    def _are_alike(self, own: _Change, copy: _Change) -> bool:
        """Whether a module is changed as the embeddings are. PEFT transposes those of tokens."""
        import torch

        parts = own.keys.keys() - {"whole"}
        if parts != copy.keys.keys() - {"whole"} or not parts <= {"A", "B"}:
            return False
        if not parts:
            return torch.equal(self._get(own, "whole"), self._get(copy, "whole"))
        return self._scale(own) == self._scale(copy) and all(
            torch.equal(one, other)
            for one, other in zip(self._halves(own), self._halves(copy), strict=True)
        )

    def _halves(self, change: _Change) -> tuple[Tensor, Tensor]:
        """Return matrices whose product changes a matrix of (tokens, size)."""
        up, down = self._get(change, "B"), self._get(change, "A")
        return (down.T, up.T) if _is_embedding(change.keys["A"]) else (up, down)

    def _subject(self, change: _Change) -> str:
        return f"Adapter of {self.reference!r}: module {shown(change.module)}"


def _is_embedding(key: str) -> bool:
    return ".lora_embedding_" in key


def find_alphas(data: Any, modules: Iterable[str], where: str) -> dict[str, float]:
    """Return the alpha of each module that the config's `alpha_pattern` has one for.

    Its keys are regular expressions of whole module names; `where` is its address in messages.

    Raises:
        CheckpointError: it is not a mapping from regular expressions to numbers, or one is too
            large or takes too long.
    """
    end = time.monotonic() + _PATIENCE
    found: dict[str, float] = {}
    for pattern, given in _VALUES.mapping(data, where).items():
        alpha = _VALUES.real(given, f"{where}.{pattern}")
        repeats = math.prod(max(1, int(count[:9])) for count in _COUNT.findall(pattern))
        try:
            if len(pattern) > _LONGEST or repeats > _MOST_REPEATS:
                raise ValueError
            re.compile(pattern)  # `regex` has more than the expressions of PEFT
            compiled = regex.compile(rf"(.*\.)?({pattern})")  # `re` has no limit of time
            for module in modules:
                if compiled.fullmatch(module, timeout=max(end - time.monotonic(), 0.001)):
                    found.setdefault(module, alpha)
        except (re.error, regex.error, ValueError, OverflowError, RecursionError, TimeoutError):
            raise CheckpointError(
                f"`{where}` has the pattern {shown(pattern)}, which is not a regular expression "
                "that can be compared with the names of all modules; write out the names."
            ) from None
    return found


def _check_supported(config: Mapping[str, Any], folder: Path) -> None:
    """Raise a `CheckpointError` if an adapter is not LoRA or needs what is not supported."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"The adapter {folder} has peft_type {shown(kind)}, but only LORA is supported; merge "
            "it into its model with PEFT and use the merged model as parent."
        )
    for key in _UNSUPPORTED_KEYS:
        if config.get(key):
            raise CheckpointError(
                f"The adapter {folder} sets {key!r}, which is not supported; merge it into its "
                "model with PEFT and use the merged model as parent."
            )
    start = config.get("init_lora_weights", True)
    if start not in _KEEPING_BASE:
        raise CheckpointError(
            f"The adapter {folder} has init_lora_weights {shown(start)}, which changes the "
            "model's own weights; convert it to ordinary LoRA with PEFT's "
            "save_pretrained(path_initial_model_for_weight_conversion=...)."
        )
