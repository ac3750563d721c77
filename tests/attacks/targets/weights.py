"""Files of weights beside a model's own: pickles, adapters; and their digests."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import tiny
import torch
from attacks.targets.models import patched, with_header, write_adapter
from attacks.targets.target import Read, Target, near_json
from mutations import damaged, json_files

from evomerge.merging.resident import Resident
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source
from evomerge.run.folder import CONFIG, JOURNAL, RunFolder
from evomerge.setup.weight_digests import WEIGHTS, check_weights, recording_weights


def pickled(folder: Path) -> Read:
    """The pickled weights of a model, which become those of a merge."""
    path = tiny.make(folder / "model", "llama", tokenizer=False)
    (path / "model.safetensors").unlink()
    whole, blocks = Layer("passthrough", [Source("a")]), range(3)
    layers = {"model.layers": [Layer("passthrough", [Source("a", i)]) for i in blocks]}
    recipe = Recipe("a", layers, whole, whole, dtype="float32")

    def read(data: bytes) -> Any:
        (path / "pytorch_model.bin").write_bytes(data)
        checkpoint = Checkpoint.open(path, "a", allow_pickle=True)
        return Resident({"a": checkpoint}, "a", "float32").apply(recipe)

    return read


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


def digests(folder: Path) -> Read:
    """The digests of the parents' weights that a run keeps."""
    model = Checkpoint.open(tiny.make(folder / "model", "llama", tokenizer=False), "a")
    (folder / CONFIG).write_text("{}")
    (folder / JOURNAL).touch()
    run = RunFolder(folder)

    def read(data: bytes) -> Any:
        (folder / WEIGHTS).write_bytes(data)
        with recording_weights(run, {"a": model}):
            pass
        check_weights(run, {"a": model})
        return run

    return read


ADAPTER_HEADER = _adapter_header()
RECORD = {"a": {"model.safetensors": {"modified": 5, "sha256": None}}}
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
    "weights.json": near_json(digests, RECORD),
}
