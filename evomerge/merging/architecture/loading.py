"""Building models with transformers from tensors in memory; code from model folders never runs.

A model runs on one device, or accelerate divides it over several. Then each block is whole on one
device, and accelerate's hooks move the hidden state between devices. Candidates are written into
the same parameters, wherever these are.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
import transformers
from torch import Tensor, nn

from evomerge.compat.transformers import (
    generation_config_of,
    keeps_settings_of_old_configs,
    quiet,
    undivided_modules,
    unmoved_arguments,
)
from evomerge.errors import CheckpointError, ConfigError, blaming
from evomerge.parsing.texts import json_value


def transformers_config(data: Mapping[str, Any]) -> Any:
    """Return the transformers config object for a `config.json`.

    `CheckpointError`: the installed transformers does not know the model type or refuses a value.
    """
    kind = str(data.get("model_type"))
    if not is_known(kind):
        raise CheckpointError(
            f"The installed transformers {transformers.__version__} does not know the model_type "
            f"{kind!r}, and code that comes with a model is not run; install a version that does."
        )
    try:
        return transformers.CONFIG_MAPPING[kind].from_dict(_with_special_floats(data))
    except Exception as error:  # config classes validate with many kinds of exception
        raise CheckpointError(f"config.json is refused by transformers: {_line(error)}") from error


def is_known(kind: Any) -> bool:
    """Whether the installed transformers has a config class for a model type."""
    return kind in transformers.CONFIG_MAPPING


def _with_special_floats(value: Any) -> Any:
    """Return data with infinity as float; transformers reads `{"__float__": ...}` of files only."""
    if isinstance(value, Mapping):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {key: _with_special_floats(item) for key, item in value.items()}
    return [_with_special_floats(item) for item in value] if isinstance(value, list) else value


def model_class(config: Any) -> Any:
    """Return the transformers class for a config: the architecture it names, else the causal LM.

    `CheckpointError`: transformers has no such class (custom code is never run).
    """
    names = getattr(config, "architectures", None) or []
    for name in names:
        kind = getattr(transformers, str(name), None)
        if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
            return kind
    if not names and type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    raise CheckpointError(
        f"The installed transformers {transformers.__version__} has no model class for "
        f"architectures {names} (model_type {getattr(config, 'model_type', None)!r}), and code "
        "that comes with a model is not run; install a version that has it."
    )


class Faults(NamedTuple):
    """What does not fit between a checkpoint and its config, by name of the tensor.

    Weights that the model needs and the checkpoint lacks, tensors that it has no place for, and the
    shape of a tensor beside the one that the model needs.
    """

    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


class Loader(NamedTuple):
    """Loads a model from tensors in memory, in the way `from_pretrained` loads files.

    `constants`, tensors of integers, are part of every checkpoint that is loaded.
    """

    config: Any
    kind: Any
    constants: Mapping[str, Tensor]

    @classmethod
    def of(cls, data: Mapping[str, Any], constants: Mapping[str, Tensor]) -> Self:
        """Return the loader for the model of a `config.json`; raises as the functions above."""
        config = transformers_config(data)
        return cls(config, model_class(config), constants)

    def load(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
        """Return the model of these floating-point tensors, in evaluation mode, with this dtype.

        `CheckpointError`: transformers cannot build it.
        """
        state = {**self.constants, **tensors}
        module: nn.Module = self._load(state, config=self.config, dtype=dtype)
        return module.eval()

    def find_faults(self, shapes: Mapping[str, tuple[int, ...]]) -> Faults:
        """Return what is wrong with a checkpoint whose tensors have these names and shapes.

        Nothing is allocated. `CheckpointError`: transformers cannot build a model from it.
        """
        module, report = self._load(
            {name: torch.empty(shape, device="meta") for name, shape in shapes.items()},
            config=copy.deepcopy(self.config),
            dtype=torch.float32,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        parameters = dict(module.named_parameters(remove_duplicate=False))
        return Faults(
            frozenset(report["missing_keys"]) & parameters.keys(),
            frozenset(report["unexpected_keys"]),
            {name: (tuple(own), tuple(wanted)) for name, own, wanted in report["mismatched_keys"]},
        )

    def _load(self, state: Mapping[str, Tensor], **options: Any) -> Any:
        try:
            with quiet():
                # Since 5.25, transformers else takes kernels from the Hub: code that nobody chose.
                own = {"use_kernels": False}
                return self.kind.from_pretrained(None, state_dict=state, **own, **options)
        except Exception as error:  # a model may raise anything for a config that does not fit
            raise CheckpointError(
                f"transformers cannot build {self.kind.__name__} from it: {_line(error)}"
            ) from error


def _line(error: Exception) -> str:
    """Return the first line of a message; the next one too if the first ends with a colon."""
    first, *more = (str(error).strip() or type(error).__name__).splitlines()
    return f"{first} {more[0].strip()}" if first.endswith(":") and more else first


def weights_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and persistent floating-point buffers by name; tied ones only once."""
    stored = set(module.state_dict())
    for name, parameter in module.named_parameters():
        yield name, parameter.detach()
    for name, buffer in module.named_buffers():
        if name in stored and buffer.is_floating_point():
            yield name, buffer


def generation_config(config: Mapping[str, Any], generation: str | None) -> Any:
    """Return the generation config of a checkpoint, or None if its model class has made it already.

    `generation` is the text of its `generation_config.json`. Without one, transformers takes the
    settings of old models from `config.json`. `CheckpointError`: it refuses a setting.
    """
    if generation is None and keeps_settings_of_old_configs():
        return None
    file = "config.json" if generation is None else "generation_config.json"
    data = None if generation is None else json_value(generation, file, CheckpointError)
    why = f"The host's {file} has a setting of generation that transformers refuses ({{reason}})"
    with blaming(CheckpointError, f"{why}; remove it there."), quiet():
        if data is None:
            return transformers.GenerationConfig.from_model_config(dict(config))
        return generation_config_of(data)


_SHARE = 0.8
"""Share of an accelerator's memory that weights may take; the rest is for batches."""


@dataclass(frozen=True)
class Placement:
    """Where and how a model runs.

    Attributes:
        device: torch device of the whole model, if it is not divided.
        spread: whether accelerate divides the model over all accelerators, about evenly, if there
            are any.
        attention: transformers' attention implementation; None: the model's default.
        float32: whether a model computes in float32, whatever its weights are rounded to.
    """

    device: str = "cpu"
    spread: bool = False
    attention: str | None = None
    float32: bool = False

    def settle(self, module: Any) -> None:
        """Set the attention of a model, and move its weights to their dtype and devices.

        `ConfigError`: the model has no such attention, or the devices are too small for it.
        """
        self._set_attention(module)
        if self.float32:
            module.float()
        devices = self.device_map(module)
        first = next(iter(devices.values()))
        if len(devices) == 1:
            module.to(first)
            return
        from accelerate import dispatch_model

        with quiet():
            dispatch_model(
                module,
                devices,
                main_device=first,  # inputs are moved to it, and outputs are moved back to it
                skip_keys=unmoved_arguments(module),
                force_hooks=True,
            )

    def check(self, data: Mapping[str, Any], dtype: str) -> None:
        """Check attention and devices with a model without weights, so before any compute.

        `data` is its `config.json`. Raises as `settle`; `CheckpointError`: transformers has no
        class for it.
        """
        if self.attention is None and not self.spread:
            return
        module = without_weights(data).to(getattr(torch, dtype))
        self._set_attention(module)
        self.device_map(module)

    def device_map(self, module: Any) -> dict[str, torch.device]:
        """Return accelerate's device map: module name ("": the whole model) -> device.

        The weights may be on the meta device. `ConfigError`: the devices are too small for them.
        """
        accelerators = _accelerators() if self.spread else []
        if not accelerators:
            return {"": torch.empty(0, device=self.device).device}  # "cuda" becomes "cuda:0"
        from accelerate import infer_auto_device_map
        from accelerate.utils import get_balanced_memory

        undivided = undivided_modules(module)
        room = {number: size for number, (_, size) in enumerate(accelerators)}
        with quiet():
            limits = get_balanced_memory(module, room, undivided)
            # What does not fit on accelerators, accelerate puts into main memory or on disk.
            by_module = infer_auto_device_map(module, {**limits, "cpu": 0}, undivided)
        if beyond := [name for name, device in by_module.items() if device in ("cpu", "disk")]:
            raise ConfigError(
                f"`evaluation.device_map` is 'auto', and {_SHARE:.0%} of the memory of all devices "
                f"has no room for the weights from {beyond[0]!r} on; use more devices or a smaller "
                "dtype."
            )
        return {name: accelerators[number][0] for name, number in by_module.items()}

    def _set_attention(self, module: Any) -> None:
        if self.attention is not None:
            why = (
                f"`evaluation.attention` is {self.attention!r}, which {type(module).__name__} "
                "cannot use here ({reason}); use auto, sdpa or eager."
            )
            with blaming(ConfigError, why, ImportError, ValueError):
                module.set_attn_implementation(self.attention)


def without_weights(data: Mapping[str, Any]) -> Any:
    """Return the model of a `config.json` on the meta device, which takes no memory.

    `CheckpointError`: transformers has no class for it.
    """
    config = transformers_config(data)
    with torch.device("meta"):
        return model_class(config)(config)


def device_of(parameter: str, devices: Mapping[str, torch.device]) -> torch.device:
    """Return the device of a parameter or buffer in a device map."""
    name = parameter
    while name not in devices and name:
        name = name.rpartition(".")[0]
    return devices[name]


def _accelerators() -> list[tuple[torch.device, int]]:
    """Return the accelerators of this machine, each with the bytes that weights may take on it.

    They are a share of all its memory, so that a resumed search gets the same device map.
    """
    # torch 2.7 cannot count them without a driver; those that share main memory do not tell.
    tell: Any = torch.get_device_module() if torch.accelerator.is_available() else None
    count = torch.accelerator.device_count() if hasattr(tell, "mem_get_info") else 0
    return [(torch.device(i), int(_SHARE * tell.mem_get_info(i)[1])) for i in range(count)]
