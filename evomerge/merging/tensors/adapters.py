"""Parents with a LoRA adapter (`model+adapter`): each tensor is changed when it is read.

Supported are LoRA (Hu et al. 2021, arXiv 2106.09685) on linear layers, Conv1D, embeddings and
parameters such as fused experts (PEFT's `target_parameters`), with rank and alpha patterns and
rank-stabilized scaling (Kalajdzievski 2023, arXiv 2312.03732), and modules that are saved whole.
All else is refused.
"""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import regex
from safetensors import safe_open

from evomerge.errors import CheckpointError
from evomerge.merging.kernels.compiled import Array
from evomerge.merging.tensors.plan import Change, Read, SourceTensor
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import normal
from evomerge.models.safetensors import read_header, read_json
from evomerge.parsing.values import Values, shown

if TYPE_CHECKING:
    from evomerge.merging.architecture.layout import Layout, Location

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_VALUES = Values(CheckpointError)
_SECONDS = 10.0  # for all matches of patterns, each of which takes microseconds
_REMEDY = "merge the adapter into its model with PEFT first, and use the merged model as parent."
_UNSUPPORTED = (
    *("use_dora", "lora_bias", "trainable_token_indices", "use_qalora"),
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
    that takes the place of the model's. `location` is where the tensor lies in a parameter that is
    adapted as a whole, with `experts` matrices; `module` is then the parameter's name.
    """

    module: str
    keys: dict[str, str] = field(default_factory=dict)
    scale: float = 1.0
    transposed: bool = False
    location: "Location | None" = None
    experts: int = 1

    def delta(self, down: Any, up: Any) -> Any:
        """Return what is added to the tensor, given the matrices A and B."""
        if self.location is None:
            delta = up.float() @ down.float() * self.scale
            return delta.T if self.transposed else delta
        # PEFT lays A out as (experts, rank, in) and B as (out, rank, experts).
        first, last = self.location.start[0], self.location.stop[0]
        if len(self.location.size) == 2:
            first, last = 0, 1
        down = down.reshape(self.experts, -1, down.shape[1])[first:last].float()
        up = up.reshape(up.shape[0], -1, self.experts)[..., first:last].permute(2, 0, 1).float()
        delta = up @ down * self.scale
        delta = delta.transpose(1, 2) if self.transposed else delta
        if len(self.location.size) == 2:
            return self.location.view(delta[0])
        return self.location._replace(start=(0, *self.location.start[1:])).view(delta)


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
            parts = {part: file.get_tensor(key) for part, key in change.keys.items()}
            weight = parts["whole"] if "whole" in parts else as_tensor(read(source))
            weight = weight.float()
            if "A" in parts:
                weight = weight + change.delta(parts["A"], parts["B"])
            return as_array(weight)

    @cached_property
    def _layout(self) -> "Layout":
        """Where the tensors on disk lie in transformers' model."""
        from evomerge.merging.architecture.layout import layout_of

        return layout_of(self.model)

    @cached_property
    def _targets(self) -> dict[str, list[str]]:
        """Normal name of a module -> its parameters that the adapter changes as a whole.

        PEFT wraps a module once for each of them, in the module's order, so the last one, whose
        wrapper is the outermost, comes first.
        """
        where = f"{self.file.with_name(_CONFIG)}: target_parameters"
        given = _VALUES.items(self.config.get("target_parameters") or [], where)
        ends = [_VALUES.text(end, where) for end in given]
        targets: dict[str, list[str]] = {}
        for name, _ in self._layout.module.named_parameters() if ends else ():
            if any(name == end or name.endswith(f".{end}") for end in ends):
                module = normal(name.rpartition(".")[0], self.model)
                targets.setdefault(module, []).insert(0, name)
        return targets

    @cached_property
    def _by_parameter(self) -> dict[str, str]:
        """Normal name of a parameter of transformers' model -> the tensor on disk."""
        layout = self._layout
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
        if match["half"] and self._add_to_parameter(key, match["half"], match["module"]):
            return
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

    def _add_to_parameter(self, key: str, half: str, module: str) -> bool:
        """Add a matrix to all tensors of the parameter that it changes; return whether it does."""
        owner = module
        while owner.endswith(".base_layer"):
            owner = owner.removesuffix(".base_layer")
        parameters = self._targets.get(normal(owner, self.model), [])
        depth = (len(module) - len(owner)) // len(".base_layer")
        for name, location in self._layout.locations.items() if depth < len(parameters) else ():
            if location.parameter == parameters[depth]:
                change = _Change(location.parameter, location=location)
                self.changes.setdefault(name, change).keys[half] = key
        return depth < len(parameters)

    def _check(self, name: str, change: _Change) -> None:
        """Check that a change fits its tensor, and set its scale and orientation."""
        if change.location is not None:
            self._check_parameter(name, change)
            return
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
            raise self._does_not_fit(name, shape, change)
        if name == self.model.embedding and list(self._by_parameter.values()).count(name) > 1:
            raise CheckpointError(
                f"Adapter of {self.model.reference!r} changes embeddings or head, which are one "
                "matrix of the model (tied); merge it into its model with PEFT first, if it was "
                "trained with `ensure_weight_tying: true`, else train it on a model with two."
            )
        if "A" in shapes:
            change.scale = self._scale(change.module, shapes["A"][0])

    def _check_parameter(self, name: str, change: _Change) -> None:
        """Check that a change fits its parameter, and set its scale and orientation."""
        parameter = self._layout.module.get_parameter(change.module)
        module = self._layout.module.get_submodule(change.module.rpartition(".")[0])
        shape = tuple(parameter.shape)
        rows, columns = shape[-2:] if len(shape) > 1 else (0, 0)
        change.experts = shape[0] if len(shape) == 3 else 1
        down, up = (self.shapes.get(change.keys.get(half, ""), ()) for half in "AB")
        fits = len(shape) in (2, 3) and len(down) == len(up) == 2 and down[0] == up[1] > 0
        fits = fits and down[0] % change.experts == 0
        product = (*up[:1], *down[1:])
        is_transposed = len(shape) == 3 and getattr(module, "is_transposed", False)
        change.transposed = is_transposed if rows == columns else product == (columns, rows)
        if not fits or product != ((columns, rows) if change.transposed else (rows, columns)):
            raise self._does_not_fit(name, shape, change)
        change.scale = self._scale(change.module, down[0] // change.experts)

    def _does_not_fit(self, name: str, shape: tuple[int, ...], change: _Change) -> CheckpointError:
        parts = ", ".join(f"{k} {[*self.shapes[key]]}" for k, key in sorted(change.keys.items()))
        return CheckpointError(
            f"Adapter of {self.model.reference!r}: {shown(change.module)} has shapes {parts}, "
            f"which do not fit {name!r} {list(shape)}; give the model that it was trained on, "
            f"or {_REMEDY}"
        )

    def _scale(self, module: str, rank: int) -> float:
        """Return the factor of B A."""
        is_stabilised = self.config.get("use_rslora")
        return self._alpha(module) / (math.sqrt(rank) if is_stabilised else rank)

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
