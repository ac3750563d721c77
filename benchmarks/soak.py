"""Kills searches with SIGKILL at random moments, and resumes them to their end.

    python benchmarks/soak.py [--quick] [--kills N] [--searches NAME ...] [--out FOLDER]

Searches of several kinds, of the embedded models, are killed five times each and resumed after each
kill. The journal and the YAML files must be those of a search that was never killed, byte for byte;
no complete line of a journal may be lost, no process and no temporary file may be left, and to
resume a run that has ended must change nothing. Runs that differ are kept in the folder `--out`.

The last line is one JSON object: kills tried and survived, faults, and both for each search.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
PATHS = [str(ROOT / name) for name in ("", "tests", "tests/shared")]
sys.path[:0] = [path for path in PATHS if path not in sys.path]

from prefork import Forked  # noqa: E402
from search_run import SMALL as WEIGHTS  # noqa: E402
from search_run import start  # noqa: E402

TWO = {"kind": "processes", "workers": 2}
SPLITS = WEIGHTS["evaluation"]
LAYERS = WEIGHTS | {
    "base": None,
    "space": {
        "kind": "dataflow",
        "variant": "structured",
        "host": "zoo:maths",
        "outside": {"embeddings": "zoo:language", "head": "zoo:language"},
        "repeats": 1,
        "ends": "free",
        "layers": [4, 8],
        "scales": [0.5, 1.5],
    },
    "optimizer": {"name": "cma-margin"},
    "objectives": [{"task": "zoo_l2_maths_mc", "metric": "acc"}],
}


@dataclass(frozen=True)
class Search:
    """A kind of search.

    Attributes:
        file: its search file.
        lines: `same` if the journal does not depend on kills; `sorted` if only the order of
            outcomes may, because several workers score; `free` if the course depends on which
            outcome arrives first.
        raised: the search has ended, and is killed while it goes on to so many candidates; 0: it is
            killed from its start on.
    """

    file: dict[str, Any]
    lines: str = "same"
    raised: int = 0


SEARCHES: dict[str, Search] = {
    "weights": Search(WEIGHTS),
    "raised": Search(WEIGHTS, raised=36),
    "paths": Search(LAYERS),
    "front": Search(
        LAYERS
        | {
            "optimizer": {"name": "auto", "population": 6},
            "mode": "pareto",
            "objectives": [*WEIGHTS["objectives"], {"metric": "layers"}],
        }
    ),
    "fresh": Search(WEIGHTS | {"evaluation": SPLITS | {"search": {"documents": 24, "fresh": 6}}}),
    "processes": Search(WEIGHTS | {"executor": TWO}, "sorted"),
    "arrival": Search(WEIGHTS | {"executor": TWO | {"order": "arrival"}}, "free"),
}

EACH = 5
"""Kills of one search."""
LONGEST = 1200
"""Seconds after which a search that was not killed must have ended."""
MOST = 300
"""Most commands that one search may need."""
NOW = "now"
"""Folder in which every search runs, since some files of a run name folders beside it."""
LOST = "the journal lost lines that were complete"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="13 kills")
    parser.add_argument("--kills", type=int, help="325; with --quick 13")
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    options = parser.parse_args()
    os.environ |= {"PYTHONPATH": os.pathsep.join(PATHS), "HF_HUB_OFFLINE": "1"}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    kills = options.kills or (13 if options.quick else 325)
    done, faults = soak(kills, options.searches, options.out.resolve() / "kills")
    print("\n".join(faults) if faults else "no fault")
    figures = {"tried": kills, "survived": kills - len(faults), "faults": faults}
    print(json.dumps({**figures, "searches": done}))


def soak(
    count: int, names: Sequence[str], folder: Path
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Kill searches `count` times in all.

    Args:
        count: number of kills.
        names: kinds of searches, which take turns.
        folder: where the runs are; those that differ are kept.

    Returns:
        (kind -> kills, searches and faults; a sentence for each search that differs)
    """
    folder.mkdir(parents=True, exist_ok=True)
    unbroken: dict[str, Path] = {}
    done = {name: {"kills": 0, "searches": 0, "faults": 0} for name in names}
    faults: list[str] = []
    left = count
    while left:
        name = min(names, key=lambda name: done[name]["kills"])
        search, number = SEARCHES[name], done[name]["searches"]
        if name not in unbroken:
            unbroken[name] = _whole(search, folder / f"{name}-unbroken")
        kills, now = min(EACH, left), folder / NOW
        fault = _killed(search, unbroken[name], now, kills, random.Random(f"{name} {number}"))
        left -= kills
        done[name]["kills"] += kills
        done[name]["searches"] += 1
        if fault is not None:
            done[name]["faults"] += 1
            faults.append(f"{name} {number}: {fault}")
            now.rename(folder / f"{name}-{number}")
        print(f"{name} {done[name]} {fault or ''}", flush=True)
    return done, faults


def _write(search: Search, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tmp").mkdir(parents=True)
    (folder / "search.yaml").write_text(yaml.safe_dump(search.file))
    return folder / "search.yaml"


def _begin(folder: Path, *arguments: object) -> Forked:
    with (folder / "said.txt").open("w") as said:
        more = {"TMPDIR": str(folder / "tmp")}
        return start(*arguments, stdout=said, stderr=said, **more)


def _whole(search: Search, folder: Path) -> Path:
    """Make a run that is not killed, and return its folder."""
    now = folder.parent / NOW
    file = _write(search, now)
    ended = _ended(folder)
    shutil.rmtree(ended, ignore_errors=True)
    for _ in range(2 if search.raised else 1):
        if (now / "run").exists():
            shutil.copytree(now / "run", ended)
        if _begin(now, *_command(search, file, now / "run", ended)).wait(LONGEST):
            raise SystemExit(f"the unbroken search failed: {(now / 'said.txt').read_text()}")
    shutil.rmtree(folder, ignore_errors=True)
    now.rename(folder)
    return folder / "run"


def _ended(unbroken: Path) -> Path:
    """Return the folder with a copy of a run before its budget was raised."""
    return unbroken.with_name(f"{unbroken.name}-before")


def _command(search: Search, file: Path, run: Path, ended: Path) -> list[object]:
    """Return the command that begins a search, or goes on with it.

    A search that is killed with a raised budget begins as a copy of one that has ended.
    """
    if search.raised and ended.exists():
        if not run.exists():
            shutil.copytree(ended, run)
        return ["resume", run, "--candidates", search.raised]
    return ["resume", run] if _can_resume(run) else ["search", file, "--run", run]


def _killed(
    search: Search, unbroken: Path, folder: Path, kills: int, generator: random.Random
) -> str | None:
    """Kill a search so many times, and resume it to its end.

    Returns:
        what differs from a search that was not killed; None: nothing.
    """
    run = folder / "run"
    file = _write(search, folder)
    total = _journal(unbroken).count(b"\n")
    before = b""
    children: set[psutil.Process] = set()
    killed = 0
    for _ in range(MOST):
        process = _begin(folder, *_command(search, file, run, _ended(unbroken.parent)))
        last = killed == kills
        if not last and _kill(process, run, total, generator, children):
            killed += 1
            now = _whole_lines(run)
            if not now.startswith(before):
                return LOST
            before = now
            if not _can_resume(run):
                shutil.rmtree(run, ignore_errors=True)
            continue
        if process.wait(LONGEST):
            said = (folder / "said.txt").read_text().strip().splitlines()
            return f"the command failed: {said[-1] if said else process.returncode}"
        if last:
            break
        # It ended before it was killed: once more from the start.
        shutil.rmtree(run)
        before = b""
    if not _whole_lines(run).startswith(before):
        return LOST
    return (
        _differs(search, unbroken, run)
        or _left(folder, children)
        or _changed_by_resume(folder, run)
    )


def _kill(
    process: Forked,
    run: Path,
    total: int,
    generator: random.Random,
    children: set[psutil.Process],
) -> bool:
    """Kill a command at a random moment; return whether it still ran.

    Three of four moments are short after a random line of what is left of the journal, since most
    of the time of a small search goes by before its first line; one is at a random time.
    """
    here = _journal(run).count(b"\n")
    line = here + generator.randint(1, max(1, (total - here) // 2))
    until = time.monotonic() + (generator.uniform(0, 8) if generator.random() < 0.25 else LONGEST)
    delay = generator.expovariate(20)
    while process.poll() is None:
        if _journal(run).count(b"\n") >= line:
            time.sleep(delay)
            break
        if time.monotonic() > until:
            break
        time.sleep(0.003)
    if process.poll() is None:
        children.update(psutil.Process(process.pid).children(recursive=True))
    process.send_signal(signal.SIGKILL)
    return process.wait(60) == -signal.SIGKILL


def _journal(run: Path) -> bytes:
    """Return the journal of a run; nothing if it has none."""
    path = run / "journal.jsonl"
    return path.read_bytes() if path.exists() else b""


def _can_resume(run: Path) -> bool:
    return (run / "search.yaml").exists()


def _whole_lines(run: Path) -> bytes:
    data = _journal(run)
    return data[: data.rfind(b"\n") + 1]


def _differs(search: Search, unbroken: Path, run: Path) -> str | None:
    theirs, ours = _told(unbroken), _told(run)
    if search.lines == "free":
        theirs = dict.fromkeys(theirs, b"")
        ours = dict.fromkeys(ours, b"")
    if search.lines == "sorted":
        theirs["journal.jsonl"] = _events(unbroken)
        ours["journal.jsonl"] = _events(run)
    if theirs.keys() != ours.keys():
        return f"other files: {sorted(theirs.keys() ^ ours.keys())}"
    wrong = [name for name, data in theirs.items() if ours[name] != data]
    return f"files differ: {wrong}" if wrong else None


def _told(run: Path) -> dict[str, bytes]:
    """Return the files that a search promises to be the same."""
    names = ("journal.jsonl", "*.yaml")
    files = [path for name in names for path in run.glob(f"**/{name}")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path.is_file()}


def _events(run: Path) -> bytes:
    """Return the events of a journal without numbers and digests, in an order of their own."""
    events = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    kept = ({k: v for k, v in event.items() if k not in ("n", "check")} for event in events)
    return "\n".join(sorted(json.dumps(event, sort_keys=True) for event in kept)).encode()


def _left(folder: Path, children: set[psutil.Process]) -> str | None:
    """Check that no process and no temporary file of the killed commands is left."""
    _, alive = psutil.wait_procs(children, 30)
    if alive:
        return f"{len(alive)} processes of killed searches still run"
    # torch keeps a cache there.
    names = sorted(path.name for path in (folder / "tmp").iterdir())
    files = [name for name in names if not name.startswith("torchinductor_")]
    return f"temporary files are left: {files[:5]}" if files else None


def _changed_by_resume(folder: Path, run: Path) -> str | None:
    """Resume a run that has ended, which replays all of it and changes nothing."""
    before = _told(run)
    if _begin(folder, "resume", run).wait(LONGEST):
        return "a run that has ended cannot be resumed"
    return None if _told(run) == before else "resuming a run that has ended changed it"


if __name__ == "__main__":
    main()
