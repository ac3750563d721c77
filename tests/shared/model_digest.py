"""A digest of all weights of a model, to compare two models."""

import hashlib

import torch
from torch import nn


def digest(module: nn.Module) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of a model's parameters, by name."""
    total = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        total.update(f"{name}:{parameter.dtype}:{tuple(parameter.shape)}\n".encode())
        flat = parameter.detach().cpu().contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()
