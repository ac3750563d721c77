"""Parents with a LoRA adapter (`model+adapter`): each tensor is changed when it is read.

Supported are LoRA (Hu et al. 2021, arXiv 2106.09685) on linear layers, Conv1D and embeddings, with
rank and alpha patterns and rank-stabilized scaling (Kalajdzievski 2023, arXiv 2312.03732), and
modules that are saved whole. All else is refused.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import regex
from safetensors import safe_open

from evomerge.errors import CheckpointError
from evomerge.merging.kernels.compiled import Array
from evomerge.merging.tensors.plan import Change, Read, SourceTensor
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import normal
from evomerge.models.safetensors import read_header, read_json
from evomerge.parsing.values import Values, shown

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_VALUES = Values(CheckpointError)
_SECONDS = 10.0  # for all matches of patterns, each of which takes microseconds
_REMEDY = "merge the adapter into its model with PEFT first, and use the merged model as parent."
_UNSUPPORTED = (
    *("use_dora", "lora_bias", "trainable_token_indices", "target_parameters", "use_qalora"),
    *("layer_replication", "alora_invocation_tokens", "use_bdlora", "arrow_config"),
    *("kasa_config", "monteclora_config", "velora_config", "megatron_config"),
)
_KEEPING_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` with which PEFT does not change the model's own weights."""

_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+?)\.(?:lora_(?P<half>[AB])\.weight|lora_embedding_(?P<rows>[AB])"
    r"|(?:base_layer\.|modules_to_save\.)?(?P<whole>weight|bias))"
)


def adapter_changes(checkpoints: Mapping[str, Checkpoint]) -> dict[SourceTensor, Change]:
    """Return what changes tensors on disk of parents with an adapter; raises as `Adapter`."""
    adapted = {name: item for name, item in checkpoints.items() if item.adapter is not None}
    adapters = {reference: Adapter(item) for reference, item in adapted.items()}
    return {
        (source := SourceTensor(reference, name)): partial(adapter.read, source)
        for reference, adapter in adapters.items()
        for name in adapter.changes
    }


@dataclass
class _Change:
    """What the adapter does to one tensor of the model, which is in PEFT's module `module`.

    `keys` are names in the adapter's file: of the matrices `A` and `B`, and of the tensor `whole`
    that takes the place of the model's.
    """

    module: str
    keys: dict[str, str] = field(default_factory=dict)
    scale: float = 1.0
    transposed: bool = False


class Adapter:
    """The LoRA adapter of a parent. To check it, no weights are read.

    Raises:
        CheckpointError: the adapter is damaged, of a kind that is not supported, or does not fit
            its model.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        folder = checkpoint.adapter
        assert folder is not None
        self.model, self.file = checkpoint, folder / _WEIGHTS
        for file in (folder / _CONFIG, self.file):
            if not file.is_file():
                raise CheckpointError(
                    f"Parent {checkpoint.reference!r}: {folder} has no {file.name}; save the "
                    "adapter with PEFT's `save_pretrained`, as safetensors."
                )
        self.config = read_json(folder / _CONFIG)
        _check_supported(self.config, folder)
        self.shapes = {name: info.shape for name, info in read_header(self.file).items()}
        self.changes: dict[str, _Change] = {}
        self._seconds = _SECONDS
        names = {normal(name, checkpoint): name for name in checkpoint.tensors}
        for key in self.shapes:
            self._add(key, names)
        for name, change in self.changes.items():
            self._check(name, change)

    def read(self, source: SourceTensor, read: Read) -> Array:
        """Return a tensor of the model, which `read` returns as on disk, after its change."""
        from evomerge.merging.kernels.torch_views import as_array, as_tensor

        change = self.changes[source.name]
        with safe_open(self.file, framework="pt") as file:
            parts = {part: file.get_tensor(key).float() for part, key in change.keys.items()}
        weight = parts["whole"] if "whole" in parts else as_tensor(read(source)).float()
        if "A" in parts:
            delta = (parts["B"] @ parts["A"]) * change.scale
            weight = weight + (delta.T if change.transposed else delta)
        return as_array(weight)

    @cached_property
    def _by_parameter(self) -> dict[str, str]:
        """Normal name of a parameter of transformers' model -> the tensor on disk."""
        from evomerge.merging.architecture.layout import layout_of

        layout = layout_of(self.model)
        names = {location.parameter: name for name, location in layout.locations.items()}
        stored = {id(item): names.get(name) for name, item in layout.module.named_parameters()}
        parameters = layout.module.named_parameters(remove_duplicate=False)
        tensors = ((normal(name, self.model), stored[id(item)]) for name, item in parameters)
        return {name: tensor for name, tensor in tensors if tensor is not None}

    def _add(self, key: str, names: Mapping[str, str]) -> None:
        """Add a tensor of the adapter's file to the changes; `names` on disk are by normal name."""
        match = _KEY.fullmatch(key)
        if match is None:
            raise CheckpointError(
                f"{self.file}: tensor {shown(key)} is of a kind that is not supported; {_REMEDY}"
            )
        wanted = f"{match['module']}.{match['whole'] or 'weight'}"
        form = normal(wanted, self.model)
        name = wanted if wanted in self.model.tensors else names.get(form)
        if name is None or (self.model.tied and name == self.model.head):
            name = self._by_parameter.get(form)
        if name is None:
            raise CheckpointError(
                f"{self.file}: tensor {shown(key)} changes {shown(wanted)}, which the model does "
                f"not have; give the model that the adapter was trained on, or {_REMEDY}"
            )
        change = self.changes.setdefault(name, _Change(match["module"]))
        change.keys[match["half"] or match["rows"] or "whole"] = key

    def _check(self, name: str, change: _Change) -> None:
        """Check that a change fits its tensor, and set its scale and orientation."""
        shape = self.model.tensors[name].shape
        shapes = {part: self.shapes[key] for part, key in change.keys.items()}
        fits = shapes.get("whole", shape) == shape
        if shapes.keys() & {"A", "B"}:
            down, up = (shapes.get(half, ()) for half in "AB")
            has_rank = len(down) == len(up) == 2 and down[0] == up[1] > 0
            embeds = [".lora_embedding_" in change.keys.get(half, "") for half in "AB"]
            product = (*up[:1], *down[1:])
            change.transposed = embeds[0] or product != shape
            if product == shape == product[::-1]:
                change.transposed = embeds[0] or bool(self.config.get("fan_in_fan_out"))
            fits = fits and has_rank and embeds[0] == embeds[1]
            fits = fits and shape == product[:: -1 if change.transposed else 1]
        if not fits:
            parts = ", ".join(f"{part} {list(item)}" for part, item in sorted(shapes.items()))
            raise CheckpointError(
                f"Adapter of {self.model.reference!r}: {shown(change.module)} has shapes {parts}, "
                f"which do not fit {name!r} {list(shape)}; give the model that it was trained on, "
                f"or {_REMEDY}"
            )
        if name == self.model.embedding and list(self._by_parameter.values()).count(name) > 1:
            raise CheckpointError(
                f"Adapter of {self.model.reference!r} changes embeddings or head, which are one "
                "matrix of the model (tied); merge it into its model with PEFT first, if it was "
                "trained with `ensure_weight_tying: true`, else train it on a model with two."
            )
        if "A" in shapes:
            divisor = shapes["A"][0] ** (0.5 if self.config.get("use_rslora") else 1)
            change.scale = self._alpha(change.module) / divisor

    @cached_property
    def _patterns(self) -> list[tuple[Any, float]]:
        """Compiled `alpha_pattern`, as PEFT reads it: patterns of the ends of names -> alpha."""
        where, patterns = f"{self.file.with_name(_CONFIG)}: alpha_pattern", []
        alphas = _VALUES.mapping(self.config.get("alpha_pattern") or {}, where)
        for pattern, value in alphas.items():
            try:
                re.compile(rf"(.*\.)?({pattern})")
                compiled = regex.compile(rf"(.*\.)?({pattern})")
            except (re.error, regex.error, OverflowError, RecursionError) as error:
                raise CheckpointError(
                    f"`{where}` has the pattern {shown(pattern)}, which is not a regular "
                    "expression; write out the names of the modules."
                ) from error
            patterns.append((compiled, _VALUES.real(value, f"{where}.{pattern}")))
        return patterns

    def _alpha(self, module: str) -> float:
        """Return the alpha of a module: by the first pattern of its whole name, else the common."""
        where = self.file.with_name(_CONFIG)
        alpha = _VALUES.real(self.config.get("lora_alpha", 8), f"{where}: lora_alpha")
        for pattern, value in self._patterns:
            begin = time.monotonic()
            try:  # unlike `re`, it can be stopped
                matches = pattern.fullmatch(module, timeout=max(1e-3, self._seconds))
            except TimeoutError:
                raise CheckpointError(
                    f"`{where}: alpha_pattern` has the pattern {shown(pattern.pattern)}, which "
                    f"takes more than {_SECONDS} s to match; write out the names of the modules."
                ) from None
            self._seconds -= time.monotonic() - begin
            if matches:
                return value
        return alpha


def _check_supported(config: Mapping[str, Any], folder: Path) -> None:
    """Raise a `CheckpointError` if an adapter is not LoRA or needs what is not supported."""
    unsupported = ["peft_type"] if config.get("peft_type") != "LORA" else []
    unsupported += [key for key in _UNSUPPORTED if config.get(key)]
    if config.get("init_lora_weights", True) not in _KEEPING_BASE:
        unsupported.append("init_lora_weights")
    for key in unsupported:
        raise CheckpointError(
            f"{folder} has {key} {shown(config.get(key))}, which is not supported; {_REMEDY}"
        )
