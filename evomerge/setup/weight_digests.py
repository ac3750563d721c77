"""Digests of every byte of the parents' weights, computed while a search runs.

The fingerprints that a run keeps cover samples of large tensors, so that a run begins and resumes
at once. What lies between the samples is covered by these digests.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from evomerge.errors import CheckpointError, RunFolderError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.fingerprint import file_digest, promised_digest
from evomerge.parsing.texts import read_text
from evomerge.run.folder import RunFolder

WEIGHTS = "weights.json"

_LOWEST_PRIORITY = 19
_READERS = 4

log = logging.getLogger(__name__)

Record: TypeAlias = dict[str, dict[str, dict[str, Any]]]
"""Parent -> path of a file in its folder -> `sha256` -> digest of its bytes."""

_RECORD = TypeAdapter(Record)


@contextmanager
def recording_weights(run: RunFolder, checkpoints: Mapping[str, Checkpoint]) -> Iterator[None]:
    """Record the digests of the parents' weights; a thread computes them while the block runs.

    If the block ends before they are known, it waits for them. If it ends with an error, what is
    known is recorded, and the next session computes the others.

    Raises:
        RunFolderError: the record of an earlier session is damaged.
    """
    record = _recorded(run)
    files = _files(checkpoints)
    missing = [
        (name, place, file) for name, place, file in files if not _known(record, name, place)
    ]
    stop, lock = threading.Event(), threading.Lock()
    thread = threading.Thread(target=_compute, args=(run, record, missing, stop, lock), daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        with lock:  # nothing is written after this, since the run folder may be removed
            stop.set()
        raise
    thread.join()


def check_weights(run: RunFolder, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Compare every byte of parents' weights with what the run has recorded.

    A file is not checked if the run was killed before its digest was recorded.

    Raises:
        CheckpointError: the weights of a parent are not those that were merged and scored.
        RunFolderError: the record is damaged.
    """
    record = _recorded(run)
    files = [item for item in _files(checkpoints) if _known(record, *item[:2])]
    with ThreadPoolExecutor(_READERS) as pool:
        digests = pool.map(file_digest, [file for _, _, file in files])
        for (name, place, _), digest in zip(files, digests, strict=True):
            if digest != _known(record, name, place):
                raise CheckpointError(
                    f"Parent {name!r} has changed since the run was started: {place} has other "
                    "weights than those that were merged and scored; put the old file back, or "
                    "start a new run."
                )


def _files(checkpoints: Mapping[str, Checkpoint]) -> list[tuple[str, str, Path]]:
    """Return the files of weights: the parent's name, the path in its folder, and the file."""
    return [
        (name, item.place_of(file), file)
        for name, item in checkpoints.items()
        for file in item.weight_files
    ]


def _known(record: Record, name: str, place: str) -> str | None:
    """Return the digest of a file of a parent's weights, if it was recorded."""
    digest: str | None = record.get(name, {}).get(place, {}).get("sha256")
    return digest


def _recorded(run: RunFolder) -> Record:
    file = run.path / WEIGHTS
    if not file.is_file():
        return {}
    try:
        return _RECORD.validate_json(read_text(file, RunFolderError))
    except ValidationError:
        raise RunFolderError(
            f"{file} is not what evomerge has written; restore it from a copy, or delete it, and "
            "the next session of the search writes it again."
        ) from None


def _compute(
    run: RunFolder,
    record: Record,
    missing: list[tuple[str, str, Path]],
    stop: threading.Event,
    lock: threading.Lock,
) -> None:
    """Compute the missing digests, and write each as soon as it is known."""
    with suppress(AttributeError, OSError):  # only Linux gives threads a priority of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
    try:
        for name, place, file in missing:
            digest = promised_digest(file) or file_digest(file)
            with lock:
                if stop.is_set():
                    return
                record.setdefault(name, {})[place] = {"sha256": digest}
                run.write(WEIGHTS, json.dumps(record, indent=1) + "\n")
    except OSError as error:
        log.warning("The weights of the parents could not be recorded: %s.", error)
