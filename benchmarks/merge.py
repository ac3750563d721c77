"""Measures the cost of merging, on disk and in memory, and compares it with limits and mergekit.

    python benchmarks/merge.py [--quick | --large] [--family llama,qwen2] [--methods linear,ties]
                               [--mergekit PYTHON] [--rounds N] [--busy N]

Writes models in bfloat16 into a temporary folder: a base model and two models near it (about
0.45 B parameters each; with --quick 0.03 B; with --large 1 to 1.5 B). The family `llama` has 32,000
tokens; `qwen2` has 151,936, and embeddings and head are one tensor. For every merge method it
measures, in child processes on one thread, in each round

- command: `evomerge merge` from files to a file; `net` is without the cost of a merge of tiny
  models (start-up: imports, compiled loops, plan);
- limit: reading all sources and writing the output once with plain system calls;
- in place: merging another candidate into the resident model, with all knobs changed;
- pass: one pass over memory that reads as many bytes as the sources and the cached data of the
  method (random numbers, ranks) have, and writes the output (computed from the time of
  `torch.add(one, two, out=three)`);
- mergekit's own command on the same file, if --mergekit names a Python that has mergekit; also on
  the tiny models.

`--busy N` keeps N processes beside it that copy memory all the time. Times are CPU seconds; memory
is the peak resident set size. Ratios are of the same round, and the table has the smallest and the
largest of them. The last line is one JSON object of these ratios: net/limit, in place/pass, and,
with --mergekit, mergekit's cost divided by ours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.merging.families import FAMILIES, write_family  # noqa: E402

METHODS = (
    *("passthrough", "linear", "slerp", "task_arithmetic", "dare_linear", "dare_ties", "ties"),
    *("breadcrumbs", "sce", "model_stock", "della"),
)
BASED = frozenset(METHODS) - {"passthrough", "linear", "slerp"}
KEPT = {"dare_linear": 1, "dare_ties": 1, "della": 2}
"""Cached arrays of 16 bits per weight that a merge in place reads for each source."""

SPARSE = frozenset({"dare_linear", "dare_ties", "ties", "breadcrumbs", "della"})
TINY = "tiny"
LARGE = ("torch", "transformers", "matplotlib", "scipy", "pandas", "numba")
"""Libraries of which it is said whether a merge of files imports them."""

LOADED = """
import sys
from evomerge.__main__ import run
code = run(sys.argv[2:])
print(*(name for name in sys.argv[1].split(",") if name in sys.modules))
sys.exit(code)
"""
READ_AND_WRITE = """
import os, sys
buffer = memoryview(bytearray(1 << 22))
*sources, out = sys.argv[1:]
size = os.stat(sources[0]).st_size
for name in sources:
    file = os.open(name, os.O_RDONLY)
    while os.readv(file, [buffer]):
        pass
file = os.open(out, os.O_WRONLY | os.O_CREAT)
while size > 0:
    size -= os.write(file, buffer[:size])
os.fsync(file)
"""
COPY_MEMORY = """
import numpy
one, two = numpy.zeros((2, 1 << 27), dtype=numpy.uint8)
while True:
    two[:] = one
"""


@dataclass(frozen=True)
class Cost:
    """CPU seconds and peak bytes of a process."""

    seconds: float
    peak: int


@dataclass(frozen=True)
class Round:
    """One measurement of one method; `theirs` is mergekit's cost, `tiny` that of tiny models."""

    ours: Cost
    tiny: Cost
    limit: float
    place: float
    one_pass: float
    theirs: Cost | None

    @property
    def net(self) -> float:
        return self.ours.seconds - self.tiny.seconds

    @property
    def ratios(self) -> dict[str, float]:
        found = {"net/limit": self.net / self.limit, "in place/pass": self.place / self.one_pass}
        if self.theirs is not None:
            found["mergekit/ours seconds"] = self.theirs.seconds / self.ours.seconds
            found["mergekit/ours peak"] = self.theirs.peak / self.ours.peak
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="models of 0.03 B parameters")
    size.add_argument("--large", action="store_true", help="models of 1 B parameters or more")
    parser.add_argument("--family", default="llama", help=f"of {', '.join(FAMILIES)}; with commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="names, joined by commas")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--busy", type=int, default=0, help="processes beside it that copy memory")
    parser.add_argument("--mergekit", type=Path, help="a Python that has mergekit installed")
    parser.add_argument("--folder", type=Path, help="where the models are, or will be, kept")
    options = parser.parse_args()
    size = "quick" if options.quick else "large" if options.large else "usual"
    ratios: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = options.folder or Path(scratch)
        make(root / TINY, "llama", "tiny")
        ratios |= start_up(options, root / TINY, Path(scratch))
        for family in options.family.split(","):
            folder = root / f"{family}-{size}"
            make(folder, family, size)
            with busy(options.busy):
                ratios |= table(options, family, folder, root / TINY, Path(scratch))
    plain = {key: [round(low, 3), round(high, 3)] for key, (low, high) in ratios.items()}
    print(
        json.dumps(
            {
                f"{key} {end}": value[end == "most"]
                for key, value in plain.items()
                for end in ("least", "most")
            }
        )
    )


def make(folder: Path, family: str, size: str) -> None:
    """Write the models of a family, in a process of its own, if they do not exist."""
    if not folder.exists():
        child([sys.executable, __file__, "make", folder, family, size])


@contextmanager
def busy(number: int) -> Iterator[None]:
    """Keep processes that copy memory while the block runs."""
    command = [sys.executable, "-c", COPY_MEMORY]
    processes = [subprocess.Popen(command, env=environment()) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start_up(
    options: argparse.Namespace, tiny: Path, scratch: Path
) -> dict[str, tuple[float, float]]:
    """Measure merges of tiny models, which are little but start-up; return their ratios."""
    recipe, out = scratch / "start.yaml", scratch / "out"
    ratios: dict[str, tuple[float, float]] = {}
    for method in ("linear", "ties"):
        recipe.write_text(recipe_text(method, tiny))
        arguments = ["merge", recipe, "--out", out]
        command = [sys.executable, "-m", "evomerge", *arguments]
        told = output([sys.executable, "-c", LOADED, ",".join(LARGE), *arguments], out)
        ours, theirs = [], []
        for _ in range(options.rounds):
            ours.append(child(command, out).seconds)
            if options.mergekit:
                run = [options.mergekit, "-m", "mergekit.scripts.run_yaml", recipe, out]
                theirs.append(child(run, out).seconds)
        print(f"start-up, {method} of tiny models: {min(ours):.2f} to {max(ours):.2f} s", end="")
        if theirs:
            print(f", mergekit {min(theirs):.2f} to {max(theirs):.2f} s", end="")
            found = [one / other for one, other in zip(theirs, ours, strict=True)]
            ratios[f"start-up {method} mergekit/ours seconds"] = (min(found), max(found))
        loaded = told.splitlines()[-1].strip()
        print(f"; of {', '.join(LARGE)} it imports {loaded or 'none'}", flush=True)
    return ratios


def table(
    options: argparse.Namespace, family: str, folder: Path, tiny: Path, scratch: Path
) -> dict[str, tuple[float, float]]:
    """Measure and print one row for each method; return the least and the largest ratios."""
    size = (folder / "base" / "model.safetensors").stat().st_size
    print(f"{family}, models of {size / 1e9:.2f} GB, {options.busy} processes beside it")
    print(
        "| method | command, s | net | limit | net / limit | peak, GB | in place, s | pass "
        "| in place / pass | mergekit, s | its peak, GB | CPU ratio | peak ratio |"
    )
    print("|" + "---|" * 13)
    found: dict[str, tuple[float, float]] = {}
    for method in options.methods.split(","):
        rounds = [
            measure(options, method, folder, tiny, scratch, first=number == 0)
            for number in range(options.rounds)
        ]
        spread = {
            name: (
                min(item.ratios[name] for item in rounds if name in item.ratios),
                max(item.ratios[name] for item in rounds if name in item.ratios),
            )
            for name in rounds[0].ratios
        }
        print(row(method, rounds, spread), flush=True)
        found |= {f"{family} {method} {name}": value for name, value in spread.items()}
    return found


def measure(
    options: argparse.Namespace, method: str, folder: Path, tiny: Path, scratch: Path, first: bool
) -> Round:
    """Measure a method once."""
    out = scratch / "out"
    small, usual = scratch / "tiny.yaml", scratch / f"{method}.yaml"
    small.write_text(recipe_text(method, tiny))
    usual.write_text(recipe_text(method, folder))
    start = [sys.executable, "-m", "evomerge", "merge"]
    if first:  # compiles the loops of the method, if they are not in the cache
        child([*start, small, "--out", out], out)
    sources = [folder / name / "model.safetensors" for name in names(method)]
    place, one_pass = in_place(method, folder)
    theirs = None
    if options.mergekit:
        run = [options.mergekit, "-m", "mergekit.scripts.run_yaml", usual, out]
        theirs = child(run, out)
    return Round(
        ours=child([*start, usual, "--out", out], out),
        tiny=child([*start, small, "--out", out], out),
        limit=child([sys.executable, "-c", READ_AND_WRITE, *sources, out], out).seconds,
        place=place,
        one_pass=one_pass,
        theirs=theirs,
    )


def row(method: str, rounds: Sequence[Round], spread: dict[str, tuple[float, float]]) -> str:
    """Return a row of the table: the smallest costs, and the spread of the ratios."""

    def least(values: Iterator[float]) -> str:
        return f"{min(values):.2f}"

    def between(name: str) -> str:
        if name not in spread:
            return ""
        low, high = (f"{value:.1f}" for value in spread[name])
        return low if low == high else f"{low} to {high}"

    theirs = [item.theirs for item in rounds if item.theirs is not None]
    cells = [
        method,
        least(item.ours.seconds for item in rounds),
        least(item.net for item in rounds),
        least(item.limit for item in rounds),
        between("net/limit"),
        least(item.ours.peak / 1e9 for item in rounds),
        least(item.place for item in rounds),
        least(item.one_pass for item in rounds),
        between("in place/pass"),
        least(item.seconds for item in theirs) if theirs else "",
        least(item.peak / 1e9 for item in theirs) if theirs else "",
        between("mergekit/ours seconds"),
        between("mergekit/ours peak"),
    ]
    return f"| {' | '.join(cells)} |"


def names(method: str) -> tuple[str, ...]:
    """Return the names of the models that a method reads."""
    if method == "passthrough":
        return ("one",)
    return ("base", "one", "two") if method in BASED else ("one", "two")


def recipe_text(method: str, folder: Path) -> str:
    """Return a mergekit config as text (JSON is YAML)."""
    weight = {} if method in ("passthrough", "slerp", "sce", "model_stock") else {"weight": 0.6}
    density = {"density": 0.5} if method in SPARSE else {}
    models = [
        {"model": str(folder / name), "parameters": {**weight, **density}}
        for name in names(method)
        if name != "base"
    ]
    recipe: dict[str, object] = {"merge_method": method, "dtype": "bfloat16", "models": models}
    if method == "slerp":
        recipe["parameters"] = {"t": 0.4}
    if method in BASED or method == "slerp":
        recipe["base_model"] = str(folder / ("one" if method == "slerp" else "base"))
    return json.dumps(recipe)


def in_place(method: str, folder: Path) -> tuple[float, float]:
    """Return the CPU seconds of another candidate in memory, and of a pass over the same bytes."""
    told = output([sys.executable, __file__, "place", method, folder])
    place, one_pass = told.split()[-2:]
    return float(place), float(one_pass)


def output(command: Sequence[object], out: Path | None = None) -> str:
    """Run a command on one thread and return what it prints; `out` as for `child`."""
    told = subprocess.run(
        list(map(str, command)), env=environment(), capture_output=True, text=True
    )
    if told.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{told.stderr}")
    if out is not None:
        subprocess.run(["rm", "-rf", str(out)], check=True)
    return told.stdout


def child(command: Sequence[object], out: Path | None = None) -> Cost:
    """Run a command on one thread and return its cost.

    Args:
        out: output of the command, which is removed afterwards.
    """
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(
            list(map(str, command)), env=environment(), stdout=told, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            told.seek(0)
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{told.read().decode()}")
    if out is not None:
        subprocess.run(["rm", "-rf", str(out)], check=True)
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def environment() -> dict[str, str]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **one, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def place(method: str, folder: Path) -> None:
    """Print what `in_place` returns."""
    from benchmarks.merging.resident import measure

    sources = len(names(method)) - (method in BASED)
    tensors = len(names(method)) + 1 + KEPT.get(method, 0) * sources
    measure(recipe_text(method, folder), folder, names(method), tensors)


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        write_family(Path(sys.argv[2]), sys.argv[3], sys.argv[4])
    elif sys.argv[1:2] == ["place"]:
        place(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
