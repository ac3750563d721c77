"""Searches that are killed at random moments again and again, and resumed to their end."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import yaml
from prefork import Forked
from search_run import start

from soaking.part import Part
from soaking.searches import SEARCHES, Search
from soaking.temporary import temporary_files

EACH = 5
"""Kills of one search."""
LONGEST = 1200
"""Seconds after which a search that was not killed must have ended."""
MOST = 300
"""Most commands that one search may need."""
NOW = "now"
"""Folder in which every search runs, since some files of a run name folders beside it."""


def soak(part: Part, count: int, names: Sequence[str], folder: Path) -> None:
    """Kill searches `count` times in all.

    Args:
        part: the result, which is added to.
        count: number of kills.
        names: kinds of searches; empty: all.
        folder: where the runs are; those that differ are kept.
    """
    chosen = [name for name in SEARCHES if not names or name in names]
    folder.mkdir(parents=True, exist_ok=True)
    unbroken: dict[str, Path] = {}
    while part.tried < count:
        name = min(chosen, key=lambda name: part.details.get(name, {}).get("kills", 0))
        search = SEARCHES[name]
        if name not in unbroken:
            unbroken[name] = _whole(search, folder / f"{name}-unbroken")
        done = part.details.setdefault(name, {"kills": 0, "searches": 0, "faults": 0})
        number = done["searches"]
        kills, now = min(EACH, count - part.tried), folder / NOW
        fault = _killed(search, unbroken[name], now, kills, random.Random(f"{name} {number}"))
        for _ in range(kills - 1):
            part.count(None)
        part.count(fault and f"{name} {number}: {fault}")
        done["kills"] += kills
        done["searches"] += 1
        done["faults"] += fault is not None
        print(f"kills: {name} {done} {fault or ''}", flush=True)
        if fault is not None:
            now.rename(folder / f"{name}-{number}")


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
    total = sum(map(_lines, _journals(unbroken)))
    before: dict[Path, bytes] = {}
    children: set[psutil.Process] = set()
    killed = 0
    for _ in range(MOST):
        process = _begin(folder, *_command(search, file, run, _ended(unbroken.parent)))
        last = killed == kills
        if not last and _kill(process, run, total, generator, children):
            killed += 1
            fault = _continues(before, run)
            if fault is not None:
                return fault
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
        before.clear()
    return (
        _continues(before, run)
        or _differs(search, unbroken, run)
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
    here = sum(map(_lines, _journals(run)))
    line = here + generator.randint(1, max(1, (total - here) // 2))
    until = time.monotonic() + (generator.uniform(0, 8) if generator.random() < 0.25 else LONGEST)
    delay = generator.expovariate(20)
    while process.poll() is None:
        if sum(map(_lines, _journals(run))) >= line:
            time.sleep(delay)
            break
        if time.monotonic() > until:
            break
        time.sleep(0.003)
    if process.poll() is None:
        children.update(psutil.Process(process.pid).children(recursive=True))
    process.send_signal(signal.SIGKILL)
    return process.wait(60) == -signal.SIGKILL


def _journals(run: Path) -> list[Path]:
    """Return the journal of a run, if it has one."""
    return [path for path in [run / "journal.jsonl"] if path.exists()]


def _lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n")


def _can_resume(run: Path) -> bool:
    return (run / "search.yaml").exists()


def _continues(before: dict[Path, bytes], run: Path) -> str | None:
    """Check that no complete line was lost or changed, and remember the lines."""
    for journal in _journals(run):
        data = journal.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if not whole.startswith(before.get(journal, b"")):
            return f"{journal.name} lost lines that were complete"
        before[journal] = whole
    return None


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
    """Return the events of a journal without their numbers, in an order that is always the same."""
    found = []
    for line in (run / "journal.jsonl").read_text().splitlines():
        event = json.loads(line[line.index("{") :])
        found.append(
            json.dumps({k: v for k, v in event.items() if k not in ("n", "after")}, sort_keys=True)
        )
    return "\n".join(sorted(found)).encode()


def _left(folder: Path, children: set[psutil.Process]) -> str | None:
    """Check that no process and no temporary file of the killed commands is left."""
    _, alive = psutil.wait_procs(children, 30)
    if alive:
        return f"{len(alive)} processes of killed searches still run"
    files = temporary_files(folder / "tmp")
    return f"temporary files are left: {files[:5]}" if files else None


def _changed_by_resume(folder: Path, run: Path) -> str | None:
    """Resume a run that has ended, which replays all of it and changes nothing."""
    before = _told(run)
    if _begin(folder, "resume", run).wait(LONGEST):
        return "a run that has ended cannot be resumed"
    return None if _told(run) == before else "resuming a run that has ended changed it"
