"""Writing a merged model to disk tensor by tensor; the model does not have to fit in memory."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from evomerge.device import count_threads
from evomerge.errors import CheckpointError, DiskError, InputError, RecipeError, not_written
from evomerge.merging.architecture.depth import merged_config
from evomerge.merging.architecture.loadable import check_loadable
from evomerge.merging.kernels.compiled import Array
from evomerge.merging.tensors.make import MOST_THREADS, TensorMaker
from evomerge.merging.tensors.plan import Planner, TensorPlan
from evomerge.merging.tensors.reader import ARRAYS
from evomerge.merging.tokenizers.plan import plan_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import code_notes, text_without_code
from evomerge.models.parts import merged_stacks
from evomerge.models.safetensors import INDEX, SINGLE, WIDTHS, read_json
from evomerge.recipe import DTYPES, Layer, Recipe, Source
from evomerge.run.atomic import atomic_folder

_WRITE_SIZE = 1 << 18
"""Bytes that one system call writes. For larger writes, Linux looks for large pieces of free
memory, which can take long (in one measurement, 1.4 s instead of 0.2 s for 0.9 GB)."""

LEAST_MEMORY = 1 << 29
"""Minimum bytes that merging needs in addition to the interpreter and its modules."""


def write_model(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    out: Path,
    *,
    memory: str | None = None,
    shard_size: str = "5GB",
    texts: Mapping[str, str] | None = None,
    copies: bool = False,
    threads: int | None = None,
) -> tuple[str, ...]:
    """Write the model of a recipe as a Hugging Face checkpoint, with its tokenizer.

    The weights are bit for bit those of the model that a search builds in memory. The folder `out`
    must not exist; it gets its name when it is complete.

    Args:
        memory: what the process may take, such as `8GB`, without pages of the parents' files, which
            the system takes back when it needs them. None: 8 GiB, or more if a tensor needs more.
        shard_size: most weights in a file, such as `5GB`; a larger tensor gets a file of its own.
        texts: name -> text of files that are written instead of the host's, or besides them.
        copies: whether the files of a parent itself are copied, if its weights are as stored.
        threads: tensors that are merged at the same time; None: see `count_threads`. The bits do
            not depend on it.

    Returns:
        A sentence for each decision that was made because the parents' tokenizers differ, and for
        each file of which something is left out.

    Raises:
        InputError: `memory` or `shard_size` is no size.
        CheckpointError: `out` exists, the disk does not have enough room, or a parent is damaged.
        RecipeError: the recipe does not fit the parents, or `memory` is too small.
        CandidateError: a merged weight is not finite.
    """
    tokenizer, host = plan_tokenizer(recipe, checkpoints), checkpoints[recipe.host]
    limit = None if memory is None else bytes_of(memory, "memory")
    largest, extra = bytes_of(shard_size, "shard size"), texts or {}
    sources = replace(recipe, vocabulary=()).parents
    if copies and tokenizer.rows is None and sources == (recipe.host,):
        host = host.as_stored
        checkpoints = {**checkpoints, recipe.host: host}  # its tensors keep their own names
        if _is_stored(recipe, host):
            return _copy_model(host, out, {**tokenizer.files, **extra})
    planner = Planner(checkpoints, recipe.host, tokenizer.rows)
    maker = TensorMaker(planner, release=True)
    plans = list(planner.plan(recipe))
    config = merged_config(recipe, checkpoints, vocabulary=tokenizer.rows)
    check_loadable(config, recipe, checkpoints, tokenizer.rows)
    threads = min(threads or count_threads(), MOST_THREADS, _threads_in(limit, plans, maker))
    texts = {"config.json": json.dumps(config, indent=2) + "\n", **tokenizer.files, **extra}
    paths = {file: host.place_of(file) for file in host.companions}
    written = {*texts, *tokenizer.dropped}
    companions = {file: path for file, path in paths.items() if path not in written}
    shards = _split(plans, largest, host.module_of)
    inside = [shard for shard in shards if "/" not in shard.name]  # modules are not in the index
    if len(inside) > 1:
        files = {plan.name: shard.name for shard in inside for plan in shard.plans}
        total = sum(_nbytes(plan) for shard in inside for plan in shard.plans)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
        texts[INDEX] = json.dumps(index, indent=2) + "\n"
    with _new_folder(out, sum(map(_nbytes, plans)), companions) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for file, path in companions.items():
            _copy(file, folder / path)
        for shard in shards:
            file = folder / shard.name
            file.parent.mkdir(exist_ok=True)
            with file.open("xb") as stream:
                _write(stream.fileno(), memoryview(shard.header), 0)
                _write_tensors(shard, stream.fileno(), maker, threads)
    notes = code_notes(host.reference, [host.folder / "config.json", *host.companions])
    return (*notes, *tokenizer.notes)


def bytes_of(text: str, option: str) -> int:
    """Return the bytes of a size such as `5GB`; an `InputError` names the `option` with another."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|[KMGT]?B)", text.strip().upper())
    size = int(float(match[1]) * 1000 ** "BKMGT".index((match[2] or "B")[0])) if match else 0
    if size <= 0:
        raise InputError(f"{option} is {text!r}; it must be a size such as 500MB or 5GB.")
    return size


def stored_dtype(checkpoint: Checkpoint, dtype: str) -> str:
    """Return the dtype in which `load` loads a model: that of its config or first tensor."""
    if checkpoint.adapter is not None:
        return dtype
    named = checkpoint.config.get("dtype", checkpoint.config.get("torch_dtype"))
    if named in DTYPES:
        return str(named)
    first = next((info.dtype for info in checkpoint.tensors.values() if info.floating), "")
    return {header: name for name, header in DTYPES.items()}.get(first, dtype)


def unchanged(checkpoint: Checkpoint, dtype: str) -> Recipe:
    """Return the recipe of a parent without any change, in a dtype."""

    def copied(layer: int | None = None) -> Layer:
        return Layer("passthrough", (Source(checkpoint.reference, layer),))

    stacks = merged_stacks(checkpoint).items()
    layers = {prefix: tuple(map(copied, range(len(stack)))) for prefix, stack in stacks}
    return Recipe(checkpoint.reference, layers, copied(), copied(), dtype=dtype)


def _is_stored(recipe: Recipe, host: Checkpoint) -> bool:
    """Whether the files in a parent's folder have the model of a recipe."""
    has_files = all(file.is_relative_to(host.folder) for file in host.weight_files)
    if host.adapter is not None or host.is_in_fp8 or not has_files:
        return False
    plain = replace(recipe, vocabulary=(), tokenizer="base", options={})
    return plain == unchanged(host, stored_dtype(host, recipe.dtype))


def _copy_model(checkpoint: Checkpoint, out: Path, texts: Mapping[str, str]) -> tuple[str, ...]:
    """Write a model as it is: the files of its config, weights and tokenizer, and `texts`.

    Keys that let programs run code are left out of the configs, as in every model that is written.
    """
    folder, index = checkpoint.folder, checkpoint.folder / INDEX
    indices = [index] if index.is_file() else []
    stored = {item for file in indices for item in read_json(file)["weight_map"].values()}
    weights = {folder / name for name in stored} | set(checkpoint.weight_files)
    files = [folder / "config.json", *indices, *sorted(weights), *checkpoint.companions]
    with _new_folder(out, 0, files) as new:
        for file in files:
            _copy(file, new / file.relative_to(folder))
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8")
    return tuple(code_notes(checkpoint.reference, files))


def _copy(file: Path, target: Path) -> None:
    """Copy a file of a model without keys that let programs run code."""
    target.parent.mkdir(exist_ok=True)
    cleaned = text_without_code(file)
    if cleaned is None:
        shutil.copyfile(file, target)
    else:
        target.write_text(cleaned, encoding="utf-8")


def _threads_in(memory: int | None, plans: Sequence[TensorPlan], maker: TensorMaker) -> int:
    """Return how many tensors may be merged at once in so many bytes; `RecipeError` if none."""
    plan = max(plans, key=maker.working_bytes)
    taken = psutil.Process().memory_info().rss + LEAST_MEMORY
    largest = maker.working_bytes(plan)
    if memory is None:
        memory = max(8 << 30, taken + largest)
    if memory < taken + largest:
        raise RecipeError(
            f"memory is {memory / 1e9:.2f} GB, and the process takes {taken / 1e9:.2f} GB, and "
            f"{plan.method or 'a copy'} about {largest / 1e9:.2f} GB more for the tensor "
            f"{plan.name!r} {list(plan.shape)}; give at least {(taken + largest) / 1e9:.2f} GB."
        )
    return max(1, (memory - taken) // largest)


def _write_tensors(shard: _Shard, descriptor: int, maker: TensorMaker, threads: int) -> None:
    """Write the tensors of a shard to its file."""
    held = threading.local()

    def output(plan: TensorPlan) -> Array:
        """Return the thread's buffer for the result; new memory each time would be slower."""
        if len(getattr(held, "buffer", ())) < _nbytes(plan):
            held.buffer = np.empty(_nbytes(plan), dtype=np.uint8)
        buffer: Array = held.buffer[: _nbytes(plan)]
        return buffer.view(ARRAYS[plan.dtype]).reshape(plan.shape)

    def write(plan: TensorPlan, tensor: Array) -> None:
        if tensor.size:
            content = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
            _write(descriptor, content.data, shard.begins[plan.name])

    maker.make(shard.plans, output, write, threads)


@contextmanager
def _new_folder(out: Path, weights: int, files: Iterable[Path]) -> Iterator[Path]:
    """Create the folder of a model, which gets its name when it is complete.

    There must be room for so many bytes of weights and for copies of files.
    """
    existing = next(folder for folder in out.absolute().parents if folder.exists())
    needed = weights + sum(file.stat().st_size for file in files) + (1 << 20)
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DiskError(
            f"{out} would take {needed / 1e9:.2f} GB and {existing} has {free / 1e9:.2f} GB free; "
            "free disk space, or choose a folder on another disk."
        )
    try:
        with atomic_folder(out) as folder:
            yield folder
    except OSError as error:
        raise not_written(str(out), error, "name another folder", CheckpointError) from error


class _Shard(NamedTuple):
    """One file of the output: `header`, then the tensors, by wider dtypes first.

    So every tensor begins (`begins`, by name) at a multiple of the size of its elements.
    """

    name: str
    plans: Sequence[TensorPlan]
    header: bytes
    begins: Mapping[str, int]


def _shard(name: str, plans: Sequence[TensorPlan], module: str = "") -> _Shard:
    """Return the shard with these tensors; in a module's file they lack its folder's name."""
    ordered = sorted(plans, key=lambda plan: -WIDTHS[plan.dtype])
    ends = list(itertools.accumulate(map(_nbytes, ordered), initial=0))
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for plan, *offsets in zip(ordered, ends, ends[1:], strict=False):
        entries[plan.name.removeprefix(f"{module}.")] = {
            "dtype": plan.dtype,
            "shape": plan.shape,
            "data_offsets": offsets,
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    begins = {plan.name: len(header) + end for plan, end in zip(ordered, ends, strict=False)}
    return _Shard(name, ordered, header, begins)


def _split(
    plans: Sequence[TensorPlan], shard_size: int, module_of: Callable[[str], str]
) -> list[_Shard]:
    """Divide tensors, in their order, among files of at most `shard_size` bytes of data.

    Those of a module of a sentence encoder (`module_of` gives its folder) are in a file there.
    """
    modules: dict[str, list[TensorPlan]] = {"": []}
    for plan in plans:
        modules.setdefault(module_of(plan.name), []).append(plan)
    groups, filled = list[list[TensorPlan]]([[]]), 0
    for plan in modules.pop(""):
        filled += _nbytes(plan)
        if groups[-1] and filled > shard_size:
            groups.append([])
            filled = _nbytes(plan)
        groups[-1].append(plan)
    count = len(groups)
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    shards = list(map(_shard, names if count > 1 else [SINGLE], groups))
    return shards + [_shard(f"{name}/{SINGLE}", them, name) for name, them in modules.items()]


def _nbytes(plan: TensorPlan) -> int:
    """Return the bytes that a tensor takes on disk."""
    return WIDTHS[plan.dtype] * prod(plan.shape)


def _write(descriptor: int, content: memoryview, at: int) -> None:
    """Write bytes to their place in a file; threads may write different ones at the same time."""
    while content:
        count = os.pwrite(descriptor, content[:_WRITE_SIZE], at)
        content, at = content[count:], at + count
