"""Writing a merged model to disk tensor by tensor; the model does not have to fit in memory."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from evomerge.errors import CheckpointError, RecipeError
from evomerge.merging.architecture.depth import merged_config
from evomerge.merging.architecture.loadable import check_loadable
from evomerge.merging.shards import (
    Buffers,
    Shard,
    ShardWriter,
    index_files,
    nbytes,
    split_into_shards,
)
from evomerge.merging.tensors.maker import TensorMaker
from evomerge.merging.tensors.pages import resident_bytes
from evomerge.merging.tensors.plan import Planner, TensorPlan
from evomerge.merging.tensors.reader import Patch, Reader, TokenRows
from evomerge.merging.tensors.threads import count_threads, for_each
from evomerge.merging.tensors.whole import WholeAngles
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.code_keys import text_without_code
from evomerge.recipe import Recipe
from evomerge.run.atomic import atomic_folder

LEAST_MEMORY = 1 << 29
"""Minimum bytes that merging needs in addition to the interpreter and torch."""

_SMALL_BUFFER = 1 << 25
"""Minimum bytes of a thread's buffer."""


def write_model(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    out: Path,
    *,
    memory: int = 8 << 30,
    shard_size: int = 5_000_000_000,
    extra_files: Mapping[str, str] | None = None,
    dropped: Collection[str] = (),
    patches: Mapping[str, Patch] | None = None,
    rows: TokenRows | None = None,
    weights: bool = True,
) -> None:
    """Write the model of a recipe as a Hugging Face checkpoint.

    The weights are bit for bit those of the model that a search builds in memory. The folder gets
    its name when it is complete; if writing fails, there is no folder with this name.

    Args:
        recipe: the recipe.
        checkpoints: every parent that the recipe names, by reference.
        out: folder to create; it must not exist.
        memory: maximum bytes of memory of the process (its resident set, which includes pages of
            memory-mapped files).
        shard_size: maximum bytes of weights in a file; a tensor that is larger gets a file of its
            own.
        extra_files: text files to write (model card, tokenizer): name -> text. They replace files
            of the host with the same name.
        dropped: names of the host's files that are not copied.
        patches: see `Reader`.
        rows: the merged vocabulary if rows of embeddings and head are matched by token, else None.
        weights: False: write all but the weights. The weight files have their headers and full
            size, but take no room on the disk, and every weight is 0.

    Raises:
        CheckpointError: `out` exists, the disk does not have enough room, or a parent is damaged.
        RecipeError: the recipe does not fit the parents, or `memory` is too small.
        CandidateError: a merged weight is not finite.
    """
    planner = Planner(checkpoints, recipe.host)
    reader = Reader(checkpoints, patches)
    maker = TensorMaker(planner, reader, rows)
    _check_memory(memory)
    config = merged_config(recipe, checkpoints, vocabulary=rows)
    check_loadable(config, recipe, checkpoints, rows)
    with reader.pages.bounded(memory - LEAST_MEMORY // 2):
        plans = WholeAngles().complete(planner.plan(recipe, rows), maker)
    extra = {"config.json": json.dumps(config, indent=2) + "\n", **(extra_files or {})}
    left_out = {*extra, *dropped}
    companions = [file for file in planner.host.companions if file.name not in left_out]
    _check_room(out, sum(map(nbytes, plans)) if weights else 0, companions)
    with atomic_folder(out) as folder, _disk_errors(out):
        shards = split_into_shards(plans, shard_size, folder)
        for name, text in {**extra, **index_files(shards)}.items():
            (folder / name).write_text(text, encoding="utf-8")
        for file in companions:
            target = folder / file.relative_to(planner.host.folder)
            target.parent.mkdir(exist_ok=True)
            cleaned = text_without_code(file)
            if cleaned is None:
                shutil.copyfile(file, target)
            else:
                target.write_text(cleaned, encoding="utf-8")
        if not weights:
            for shard in shards:
                ShardWriter(shard, folder, Buffers(0), reader.pages).close()
            return
        with reader.pages.bounded(memory - LEAST_MEMORY // 2):
            _write_shards(shards, folder, maker, _buffers(memory))


def _write_shards(
    shards: Sequence[Shard], folder: Path, maker: TensorMaker, buffers: Buffers
) -> None:
    for shard in shards:
        writer = ShardWriter(shard, folder, buffers, maker.reader.pages)
        try:
            for_each(partial(_write_tensor, writer=writer, maker=maker), shard.plans)
        finally:
            writer.close()


def _write_tensor(plan: TensorPlan, writer: ShardWriter, maker: TensorMaker) -> None:
    if plan.method is None:
        writer.put(plan, maker.read(plan, plan.sources[0]))
    else:
        merge = maker.prepare(plan, reuse=False)
        with writer.tensor(plan) as out:
            maker.write(plan, merge, out)
    for source in plan.inputs:
        maker.reader.release(source)


def _buffers(memory: int) -> Buffers:
    """Return buffers that take half of the remaining memory, all threads together."""
    left = memory - LEAST_MEMORY - resident_bytes()
    return Buffers(max(left // (2 * count_threads()), _SMALL_BUFFER))


def _check_room(out: Path, weights: int, companions: Sequence[Path]) -> None:
    place = next(folder for folder in out.absolute().parents if folder.exists())
    needed = weights + sum(file.stat().st_size for file in companions) + (1 << 20)
    free = shutil.disk_usage(place).free
    if needed > free:
        raise CheckpointError(
            f"{out} would take {needed / 1e9:.2f} GB and {place} has {free / 1e9:.2f} GB free; "
            "free disk space, or choose a folder on another disk."
        )


def _check_memory(memory: int) -> None:
    needed = resident_bytes() + LEAST_MEMORY
    if memory < needed:
        raise RecipeError(
            f"--memory is {memory / 1e9:.2f} GB; it must be at least {needed / 1e9:.2f} GB, since "
            f"the process already takes {resident_bytes() / 1e9:.2f} GB."
        )


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "; free disk space, or choose a folder on another disk" if full else ""
        raise CheckpointError(
            f"Writing {out} failed, and it was not created: {error.strerror or error}{advice}."
        ) from error
