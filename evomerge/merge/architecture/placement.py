"""Where a model's weights live, and which attention it runs: one device, or several by accelerate.

Spread over several devices, each block stays whole on one of them, and accelerate's hooks hand the
hidden state on. Candidates are written into the same parameters wherever they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from evomerge.errors import ConfigError

_SHARE = 0.8  # of an accelerator's memory for weights; the rest is for batches


@dataclass(frozen=True)
class Placement:
    """How a model is run.

    Attributes:
        device: torch device, where the model is not spread.
        spread: how accelerate divides the model over the accelerators: `auto` and `balanced` give
            each about the same, `sequential` fills one after the other; None is one device.
        memory: number of an accelerator -> bytes that weights may take there; those not named
            take none. None is four fifths of what each one has.
        attention: transformers' attention implementation; None is the model's own choice.
    """

    device: str = "cpu"
    spread: Literal["auto", "balanced", "sequential"] | None = None
    memory: Mapping[int, int] | None = None
    attention: str | None = None

    def settle(self, module: Any) -> None:
        """Set the attention of a model and move it to its place; aliases of its weights stay.

        Raises:
            ConfigError: the model has no such attention, or the devices are too small for it.
        """
        if self.attention is not None:
            _set_attention(module, self.attention)
        plan = self.plan(module)
        first = next(iter(plan.values()))
        if len(plan) == 1:
            module.to(first)
            return
        from accelerate import dispatch_model

        with _quiet():
            dispatch_model(
                module,
                plan,
                main_device=first,  # inputs are sent to it, and outputs sent back
                skip_keys=getattr(module, "_skip_keys_device_placement", None),
                force_hooks=True,
            )

    def check(self, data: Mapping[str, Any], dtype: str) -> None:
        """Try attention and plan on a model without weights, before there is one with them.

        Args:
            data: `config.json` of the model.
            dtype: of its weights, as a search file names it.

        Raises:
            CheckpointError: transformers has no class for the model.
            ConfigError: the model has no such attention, the devices are too small for it, or one
                of them is not there.
        """
        if self.attention is None and self.spread is None:
            return
        from evomerge.merge.architecture.loading import model_class, transformers_config

        config = transformers_config(data)
        with torch.device("meta"):
            module = model_class(config)(config).to(getattr(torch, dtype))
        if self.attention is not None:
            _set_attention(module, self.attention)
        self.plan(module)

    def plan(self, module: Any) -> dict[str, torch.device]:
        """Return the device of every part of a model, by the name of its module.

        Only shapes and dtypes of the weights count, so that they need no memory yet.

        Raises:
            ConfigError: the devices are too small for the model, or one of them is not there.
        """
        if self.spread is None:
            return {"": torch.empty(0, device=self.device).device}  # with its number
        room = dict(_room() if self.memory is None else self.memory)
        if not room:
            return {"": torch.device("cpu")}
        from accelerate import infer_auto_device_map
        from accelerate.utils import get_balanced_memory

        whole = sorted(getattr(module, "_no_split_modules", None) or ())
        with _quiet():
            limits = (
                room if self.spread == "sequential" else get_balanced_memory(module, room, whole)
            )
            # An accelerator's last resorts are the host's memory and the disk.
            found = infer_auto_device_map(module, {**limits, "cpu": 0}, whole)
        beyond = [name for name, device in found.items() if device in ("cpu", "disk")]
        if beyond:
            needed = sum(p.numel() * p.element_size() for p in module.parameters()) / 1e9
            have = ", ".join(f"{size / 1e9:.3g} GB" for size in room.values())
            raise ConfigError(
                f"`evaluation.device_map` spreads {needed:.3g} GB of weights over {have}, with no "
                f"room for {beyond[0]!r} and what follows; raise `evaluation.max_memory`, use more "
                "devices or a smaller dtype. (Weights are never left on the host, since every "
                "batch would carry them in again.)"
            )
        return {name: _accelerator(int(number)) for name, number in found.items()}


def device_of(parameter: str, plan: Mapping[str, torch.device]) -> torch.device:
    """Return the device that a plan has for a parameter or buffer."""
    name = parameter
    while name not in plan and name:
        name = name.rpartition(".")[0]
    return plan[name]


def _accelerator(number: int) -> torch.device:
    kind, count = torch.accelerator.current_accelerator(), torch.accelerator.device_count()
    if kind is None or number >= count:
        have = f"{count}, counted from 0" if count else "none"
        raise ConfigError(
            f"`evaluation.max_memory` names accelerator {number}, but this machine has {have}; "
            "name those that are there, or remove `max_memory` to use all."
        )
    return torch.device(kind.type, number)


def _room() -> dict[int, int]:
    """Return what weights may take of each accelerator: a share of all it has, free or not.

    What is free now may not be free when the search goes on, and every depth of a model shall lie
    on the same devices.
    """
    count = torch.accelerator.device_count()
    tell = getattr(torch.get_device_module(), "mem_get_info", None) if count else None
    return {} if tell is None else {i: int(_SHARE * tell(i)[1]) for i in range(count)}


def _set_attention(module: Any, attention: str) -> None:
    try:
        module.set_attn_implementation(attention)
    except AttributeError:
        raise ConfigError(
            "`evaluation.attention` needs transformers 4.54 or newer; upgrade it, or leave "
            "`attention` at auto."
        ) from None
    except (ImportError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"`evaluation.attention` is {attention!r}, which {type(module).__name__} cannot use "
            f"here ({reason}); use auto, sdpa or eager."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what accelerate says about devices; what matters of it is checked here."""
    logger = logging.getLogger("accelerate")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
