"""Where a model runs: on one device, or divided over several by accelerate; and its attention.

When a model is divided, each block is whole on one device, and accelerate's hooks move the hidden
state between devices. Candidates are written into the same parameters, wherever these are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from evomerge.compat.transformers import undivided_modules, unmoved_arguments
from evomerge.errors import ConfigError, blaming
from evomerge.merging.architecture.loading import model_class, quiet, transformers_config

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
        config = transformers_config(data)
        with torch.device("meta"):
            module = model_class(config)(config).to(getattr(torch, dtype))
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
