"""Files of weights beside a model's own: pickles, adapters."""

from __future__ import annotations

import io
import json
import shutil
import struct
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import tiny
import torch
from attacks.targets.models import patched, with_header, write_adapter
from attacks.targets.target import Read, Target
from mutations import damaged, json_files

from evomerge.merging.resident import Resident
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source


def pickled(folder: Path) -> Read:
    """The pickled weights of a model, which become those of a merge."""
    path = tiny.make(folder / "model", "llama", tokenizer=False)
    (path / "model.safetensors").unlink()
    whole, blocks = Layer("passthrough", [Source("a")]), range(3)
    layers = {"model.layers": [Layer("passthrough", [Source("a", i)]) for i in blocks]}
    recipe = Recipe("a", layers, whole, whole, dtype="float32")

    def read(data: bytes) -> Any:
        (path / "pytorch_model.bin").write_bytes(data)
        checkpoint = _opened(path, folder)
        return Resident({"a": checkpoint}, "a", "float32").apply(recipe)

    return read


def _opened(path: Path, folder: Path) -> Checkpoint:
    """Open a model with pickled weights, without keeping what they are converted to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return Checkpoint.open(path, "a")


def pickles() -> bytes:
    """Return the weights of a tiny model, as torch writes them: a ZIP file."""
    from transformers import LlamaForCausalLM

    written = io.BytesIO()
    torch.save(LlamaForCausalLM(tiny.CONFIGS["llama"]()).state_dict(), written)
    return written.getvalue()


def with_pickle(archive: bytes, pickle: bytes | None = None) -> tuple[bytes, bytes]:
    """Return a file of torch whose pickle is replaced, and the pickle that it had."""
    written, before = io.BytesIO(), b""
    with ZipFile(io.BytesIO(archive)) as old, ZipFile(written, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("/data.pkl"):
                before, data = data, data if pickle is None else pickle
            new.writestr(name, data)
    return written.getvalue(), before


def adapter_weights(folder: Path) -> Read:
    """The weights of an adapter, which are added to those of a model."""
    model = tiny.make(folder / "model", "llama", seed=1)
    adapter = write_adapter(folder / "adapter")

    def read(data: bytes) -> Any:
        (adapter / "adapter_model.safetensors").write_bytes(data)
        return patched(model, adapter)

    return read


def _adapter_header() -> dict[str, Any]:
    """Return the header of the weights of `write_adapter`."""
    name = "base_model.model.model.layers.{}.self_attn.q_proj.{}.weight"
    shapes = {
        name.format(layer, part): shape
        for layer in range(2)
        for part, shape in (("lora_A", [2, 16]), ("lora_B", [16, 2]))
    }
    return {
        key: {"dtype": "F32", "shape": shape, "data_offsets": [128 * i, 128 * i + 128]}
        for i, (key, shape) in enumerate(shapes.items())
    }


ADAPTER_HEADER = _adapter_header()
_BYTES = struct.pack("<128f", *[0.5] * 128)
_ADAPTER = with_header(json.dumps(ADAPTER_HEADER).encode(), _BYTES)
_PICKLES = pickles()
WEIGHT_FILES = {
    "pickled weights": Target(
        (_PICKLES,),
        damaged(with_pickle(_PICKLES)[1]).map(lambda data: with_pickle(_PICKLES, data)[0])
        | damaged(_PICKLES),
        pickled,
    ),
    "adapter weights": Target(
        (_ADAPTER,),
        json_files(ADAPTER_HEADER).map(lambda header: with_header(header, _BYTES))
        | damaged(_ADAPTER),
        adapter_weights,
    ),
}
