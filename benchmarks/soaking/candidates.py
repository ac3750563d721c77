"""One long search, watched from outside for what grows."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from search_run import command, environment

from soaking.part import Part
from soaking.searches import WEIGHTS
from soaking.temporary import temporary_files

SEARCH = WEIGHTS | {
    "space": WEIGHTS["space"] | {"groups": "one"},
    "objectives": [{"task": "zoo_l2_maths_mc", "metric": "acc"}],
    "evaluation": {
        "include": ["zoo:tasks"],
        "search": {"documents": 4},
        "validation": {"documents": 4, "finalists": 2},
        "test": {"documents": 4},
    },
}
TELL = b'"event":"tell"'
GROWTH = 1.1
"""Most memory at the end, as a share of that after a tenth of the candidates."""
SLOWER = 1.5
"""Most CPU time of a candidate of the last tenth, as a share of one of the second tenth."""
MORE_FILES = 2
"""Most open files at the end beyond those after a tenth; one or two are open for a moment."""


@dataclass(frozen=True)
class Sample:
    """What the process has after so many candidates."""

    candidates: int
    cpu_seconds: float
    memory: int
    files: int
    temporary: int


def soak(part: Part, count: int, folder: Path) -> None:
    """Search so many candidates.

    Args:
        part: the result.
        count: number of candidates.
        folder: where the run is.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tmp").mkdir(parents=True)
    (folder / "search.yaml").write_text(yaml.safe_dump(SEARCH | {"budget": {"candidates": count}}))
    samples = _watched(folder, count)
    at_tenth, at_fifth, before_end = (
        min(samples, key=lambda sample: abs(sample.candidates - count * share))
        for share in (0.1, 0.2, 0.9)
    )
    at_end = samples[-1]
    early, late = _time(at_tenth, at_fifth), _time(before_end, at_end)
    scored = (folder / "run" / "journal.jsonl").read_bytes().count(TELL)
    part.tried, part.survived = count, scored
    part.details = {
        "memory at 10 %, MB": round(at_tenth.memory / 1e6, 1),
        "memory at the end, MB": round(at_end.memory / 1e6, 1),
        "open files at 10 %": at_tenth.files,
        "open files at the end": at_end.files,
        "temporary at 10 %": at_tenth.temporary,
        "temporary at the end": at_end.temporary,
        "temporary after it": len(temporary_files(folder / "tmp")),
        "CPU ms, second tenth": round(1000 * early, 1),
        "CPU ms, last tenth": round(1000 * late, 1),
    }
    wrong = {
        "not all candidates were scored": scored < count,
        "memory grows": at_end.memory > GROWTH * at_tenth.memory,
        "open files grow": at_end.files > at_tenth.files + MORE_FILES,
        "temporary files grow": at_end.temporary > at_tenth.temporary,
        "temporary files are left": part.details["temporary after it"] > 0,
        "candidates become slower": late > SLOWER * early,
    }
    part.faults = [said for said, is_so in wrong.items() if is_so]


def _time(first: Sample, last: Sample) -> float:
    return (last.cpu_seconds - first.cpu_seconds) / max(1, last.candidates - first.candidates)


def _watched(folder: Path, count: int) -> list[Sample]:
    """Run the search, and sample it a hundred times."""
    run, temporary = folder / "run", folder / "tmp"
    begun = command("search", folder / "search.yaml", "--run", run)
    samples: list[Sample] = []
    told, size = 0, 0
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            begun, env=environment(TMPDIR=str(temporary)), stdout=said, stderr=said
        )
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(0.01)
            journal = run / "journal.jsonl"
            if not journal.exists():
                continue
            with journal.open("rb") as file:
                file.seek(size)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            size += len(new)
            told += new.count(TELL)
            if told and (not samples or told >= samples[-1].candidates + count / 100):
                if sample := _sample(watched, told, temporary):
                    samples.append(sample)
                if len(samples) % 10 == 0:
                    print(f"candidates: {samples[-1]}", flush=True)
    if process.returncode:
        raise SystemExit(f"the search failed: {(folder / 'said.txt').read_text()}")
    return samples


def _sample(process: psutil.Process, told: int, temporary: Path) -> Sample | None:
    try:
        with process.oneshot():
            spent = process.cpu_times()
            return Sample(
                told,
                spent.user + spent.system,
                process.memory_info().rss,
                process.num_fds(),
                len(temporary_files(temporary)),
            )
    except psutil.Error:  # it ended meanwhile
        return None
