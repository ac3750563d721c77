"""Passing weights to other processes of this machine: as a safetensors file in shared memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from evomerge.run.atomic import TemporaryFolder

_SHARED_MEMORY = "/dev/shm"  # a folder whose files are in memory, on Linux


@contextmanager
def memory_folder() -> Iterator[Path]:
    """Yield a new folder that ends with the block; its files are in memory where the system can."""
    memory = Path(_SHARED_MEMORY) if os.access(_SHARED_MEMORY, os.W_OK) else None
    with TemporaryFolder(memory) as folder:
        yield folder


def write_weights(weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write the weights of a checkpoint into a folder, as one safetensors file.

    Args:
        weights: name -> tensor, on any device. Tensors that share memory are written once each.
        folder: the folder.
    """
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in weights.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in seen else own
        seen.add(place)
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
