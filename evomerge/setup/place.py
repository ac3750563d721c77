"""Where models run: devices, memory limits, attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.config.schema import SearchConfig

if TYPE_CHECKING:
    from evomerge.merging.architecture.placement import Placement


def place(config: SearchConfig) -> Placement:
    """Return the devices of a model, their memory limits and the attention.

    Raises:
        InputError: there is no such device, or a memory limit is not a size.
    """
    from evomerge.evaluation.inference.device import choose_device
    from evomerge.merging.architecture.placement import Placement
    from evomerge.merging.backend import bytes_of

    wanted = config.evaluation
    device = choose_device(wanted.device)
    memory = None
    if wanted.max_memory is not None:
        memory = {
            number: bytes_of(size, f"evaluation.max_memory.{number}")
            for number, size in wanted.max_memory.items()
        }
    attention = None if wanted.attention == "auto" else wanted.attention
    return Placement(device, wanted.device_map, memory, attention)
