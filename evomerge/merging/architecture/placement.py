"""Where a model runs: on one device, or divided over several by accelerate; and its attention.

When a model is divided, each block is whole on one device, and accelerate's hooks move the hidden
state between devices. Candidates are written into the same parameters, wherever these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from evomerge.compat.transformers import undivided_modules, unmoved_arguments
from evomerge.errors import ConfigError, one_line
from evomerge.merging.architecture.loading import model_class, quiet, transformers_config

_SHARE = 0.8
"""Share of an accelerator's memory that weights may take; the rest is for batches."""


@dataclass(frozen=True)
class Placement:
    """Where and how a model runs.

    Attributes:
        device: torch device of the whole model, if `spread` is None.
        spread: how accelerate divides the model over accelerators: `auto` and `balanced` give each
            about the same share, `sequential` fills one after the other. None: one device.
        memory: bytes that weights may take on each accelerator, by its number; accelerators that
            are not listed are not used. None: four fifths of the memory of every accelerator.
        attention: transformers' attention implementation; None: the model's default.
    """

    device: str = "cpu"
    spread: Literal["auto", "balanced", "sequential"] | None = None
    memory: Mapping[int, int] | None = None
    attention: str | None = None

    def settle(self, module: Any) -> None:
        """Set the attention of a model and move its weights to their devices.

        A parameter that is on its device already keeps its memory.

        Raises:
            ConfigError: the model has no such attention, or the devices are too small for it.
        """
        self._set_attention(module)
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

        `data` is its `config.json`, and `dtype` that of its weights, as a search file spells it.

        Raises:
            CheckpointError: transformers has no class for the model.
            ConfigError: as `settle`, or one of the devices is not there.
        """
        if self.attention is None and self.spread is None:
            return
        config = transformers_config(data)
        with torch.device("meta"):
            module = model_class(config)(config).to(getattr(torch, dtype))
        self._set_attention(module)
        self.device_map(module)

    def device_map(self, module: Any) -> dict[str, torch.device]:
        """Return accelerate's device map for a model: module name -> device.

        "" stands for the whole model. Only shapes and dtypes of the weights are used, so they may
        be on the meta device.

        Raises:
            ConfigError: the devices are too small for the model, or one of them is not there.
        """
        if self.spread is None:
            return {"": torch.empty(0, device=self.device).device}  # "cuda" becomes "cuda:0"
        room = dict(_room() if self.memory is None else self.memory)
        if not room:
            return {"": torch.device("cpu")}
        from accelerate import infer_auto_device_map
        from accelerate.utils import get_balanced_memory

        whole = undivided_modules(module)
        limits: dict[Any, int] = dict(room)
        with quiet():
            if self.spread != "sequential":
                limits = get_balanced_memory(module, room, whole)
            # What does not fit on accelerators, accelerate puts into main memory or on disk.
            found = infer_auto_device_map(module, {**limits, "cpu": 0}, whole)
        beyond = [name for name, device in found.items() if device in ("cpu", "disk")]
        if beyond:
            needed = sum(p.numel() * p.element_size() for p in module.parameters()) / 1e9
            have = ", ".join(f"{size / 1e9:.3g} GB" for size in room.values())
            raise ConfigError(
                f"`evaluation.device_map` spreads {needed:.3g} GB of weights over {have}, with no "
                f"room for {beyond[0]!r} and what follows (weights are never left on the host, "
                "since every batch would carry them in again); raise `evaluation.max_memory`, use "
                "more devices or a smaller dtype."
            )
        return {name: _accelerator(int(number)) for name, number in found.items()}

    def _set_attention(self, module: Any) -> None:
        try:
            if self.attention is not None:
                module.set_attn_implementation(self.attention)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"`evaluation.attention` is {self.attention!r}, which {type(module).__name__} "
                f"cannot use here ({one_line(error)}); use auto, sdpa or eager."
            ) from error


def device_of(parameter: str, devices: Mapping[str, torch.device]) -> torch.device:
    """Return the device of a parameter or buffer in a device map."""
    name = parameter
    while name not in devices and name:
        name = name.rpartition(".")[0]
    return devices[name]


def _accelerator(number: int) -> torch.device:
    kind, count = torch.accelerator.current_accelerator(), len(_room())
    if kind is None or number >= count:
        raise ConfigError(
            f"`evaluation.max_memory` names accelerator {number}, but this machine has {count}, "
            "counted from 0; name those that are there, or remove `max_memory` to use all."
        )
    return torch.device(kind.type, number)


def _room() -> dict[int, int]:
    """Return the bytes that weights may take on each accelerator.

    It is a share of all its memory, also of what is used at the moment: so a resumed search, and
    models of other depths, get the same device map.
    """
    if not torch.accelerator.is_available():  # torch 2.7 cannot count them without a driver
        return {}
    tell = getattr(torch.get_device_module(), "mem_get_info", None)
    count = torch.accelerator.device_count()
    return {} if tell is None else {i: int(_SHARE * tell(i)[1]) for i in range(count)}
