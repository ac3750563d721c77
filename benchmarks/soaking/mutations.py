"""Files with something wrong in them, read by every parser of files from strangers.

Each batch of files is read by a process of its own, which may take 1 GB more memory than it has
when it begins, and for each file 5 seconds of CPU time. A file that does not end in a value or in
one sentence is kept, and so is one that ends the process; then the whole batch counts as failed.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import tempfile
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil

from soaking.part import Part

BATCH = 500
MEMORY = 10**9
"""Bytes that a batch may take beyond what it has when it begins."""
LONGEST = 1800
"""Seconds until a batch is killed that no signal ends."""


def soak(part: Part, count: int, names: Sequence[str], folder: Path) -> None:
    """Read `count` changed files, as many with each parser.

    Args:
        part: the result, which is added to.
        count: number of files.
        names: the parsers; empty: all.
        folder: where files that are not read as promised are kept.
    """
    from attacks.targets import TARGETS

    chosen = [name for name in TARGETS if not names or name in names]
    each = -(-count // len(chosen))
    for name in chosen:
        done = part.details[name] = {"files": 0, "values": 0, "errors": 0, "faults": 0}
        while done["files"] < each:
            size = min(BATCH, each - done["files"])
            found = _in_process(name, done["files"], size, folder)
            for key in ("values", "errors"):
                done[key] += found[key]
            for fault in found["faults"]:
                part.faults.append(f"{name}: {fault}")
            done["files"] += size
            done["faults"] += found["failed"]
            part.tried += size
            part.survived += size - found["failed"]
            print(f"mutations: {name} {done}", flush=True)


def _in_process(name: str, first: int, size: int, folder: Path) -> dict:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as work:
        answer, current = Path(work, "answer"), Path(work, "current")
        about = (name, first, size, Path(work), folder)
        process = context.Process(target=_batch, args=about)
        process.start()
        process.join(LONGEST)
        process.kill()
        process.join()
        if answer.exists():
            return json.loads(answer.read_text())
        kept = _keep(folder, name, current.read_bytes() if current.exists() else b"")
        fault = f"the process ended with code {process.exitcode} ({kept})"
        # Nobody knows how many files of the batch were read before.
        return {"values": 0, "errors": 0, "failed": size, "faults": [fault]}


def _keep(folder: Path, name: str, data: bytes) -> str:
    """Write a file that was not read as promised, and return its name."""
    folder.mkdir(parents=True, exist_ok=True)
    number = sum(1 for _ in folder.iterdir())
    path = folder / f"{name.replace(' ', '-')}-{number}"
    path.write_bytes(data)
    return path.name


def _batch(name: str, first: int, size: int, work: Path, folder: Path) -> None:
    """Read a batch in this process, and write the counts to the file `answer`."""
    from attacks.targets import TARGETS
    from attacks.targets.target import TooLongError, bounded
    from hypothesis import given, seed, settings
    from mutations import FUZZ, value_or_error

    target = TARGETS[name]
    (work / "files").mkdir()
    read = target.reader(work / "files")
    for data in target.valid:  # what is imported at the first file is not the file's memory
        read(data)
    limit = psutil.Process().memory_info().data + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    values, errors = 0, 0
    kept: dict[str, str] = {}
    faults: Counter[str] = Counter()

    @settings(FUZZ, max_examples=size, derandomize=False)
    @seed(first)
    @given(target.files)
    def each(data: bytes) -> None:
        nonlocal values, errors
        (work / "current").write_bytes(data)
        try:
            with bounded():
                if value_or_error(lambda: read(data)) is None:
                    errors += 1
                else:
                    values += 1
        except (Exception, TooLongError) as fault:
            place = traceback.extract_tb(fault.__traceback__)[-1]
            said = f"{type(fault).__name__} in {Path(place.filename).name}: {str(fault)[:100]!r}"
            faults[said] += 1
            if said not in kept:
                kept[said] = _keep(folder, name, data)

    each()
    told = [f"{said} ({number} files, such as {kept[said]})" for said, number in faults.items()]
    answer = {"values": values, "errors": errors, "failed": faults.total(), "faults": told}
    (work / "answer").write_text(json.dumps(answer))
