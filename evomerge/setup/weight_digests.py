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
from typing import TypeAlias

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic cannot read typing's before Python 3.12

from evomerge.errors import CheckpointError, RunFolderError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.fingerprint import file_digest, promised_digest
from evomerge.parsing.texts import read_text
from evomerge.run.folder import RunFolder

WEIGHTS = "weights.json"
"""File of a run with a `Weights` for each file of each parent's weights."""

_LOWEST_PRIORITY = 19
_READERS = 4

log = logging.getLogger(__name__)


class Weights(TypedDict):
    """What a run knows of a file of weights.

    Attributes:
        modified: when the file was last written, in nanoseconds since 1970.
        sha256: digest of its bytes; None until it is computed.
    """

    modified: int
    sha256: str | None


Record: TypeAlias = dict[str, dict[str, Weights]]
"""Parent -> name of a file -> what is known of it."""

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
    missing: list[tuple[str, Path, Weights]] = []
    for name, item in checkpoints.items():
        for file in item.weight_files:
            now = file.stat().st_mtime_ns
            new = Weights(modified=now, sha256=None)
            known = record.setdefault(name, {}).setdefault(file.name, new)
            if known["sha256"] is None:
                missing.append((name, file, known))
                if known["modified"] != now:
                    log.warning(
                        "Parent %r: %s was written since the run began, before every byte of it "
                        "was recorded; if its weights are not the same, start a new run.",
                        name,
                        file.name,
                    )
                    known["modified"] = now
    if not missing:
        yield
        return
    stop, lock = threading.Event(), threading.Lock()
    thread = threading.Thread(target=_compute, args=(run, record, missing, stop, lock), daemon=True)
    _write(run, record)
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
    wanted = {
        (name, file): known["sha256"]
        for name, item in checkpoints.items()
        for file in item.weight_files
        if (known := record.get(name, {}).get(file.name)) and known["sha256"]
    }
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda key: file_digest(key[1]), wanted)
        for (name, file), digest in zip(wanted, found, strict=True):
            if digest != wanted[name, file]:
                raise CheckpointError(
                    f"Parent {name!r} has changed since the run was started: {file.name} has other "
                    "weights than those that were merged and scored; put the old file back, or "
                    "start a new run."
                )


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


def _write(run: RunFolder, record: Record) -> None:
    run.write(WEIGHTS, json.dumps(record, indent=1) + "\n")


def _compute(
    run: RunFolder,
    record: Record,
    missing: list[tuple[str, Path, Weights]],
    stop: threading.Event,
    lock: threading.Lock,
) -> None:
    """Compute the missing digests, and write each as soon as it is known."""
    with suppress(AttributeError, OSError):  # only Linux gives threads a priority of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
    try:
        for name, file, known in missing:
            digest = promised_digest(file) or file_digest(file)
            if stop.is_set():
                return
            if file.stat().st_mtime_ns == known["modified"]:
                known["sha256"] = digest
                with lock:
                    if not stop.is_set():
                        _write(run, record)
            else:
                log.warning(
                    "Parent %r: %s is written while the search runs; put the old file back, or "
                    "start a new run.",
                    name,
                    file.name,
                )
    except OSError as error:
        log.warning("The weights of the parents could not be recorded: %s.", error)
