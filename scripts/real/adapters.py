"""Adapters at the size of a real model: what a rank cuts, what it scores, and what it costs.

    python -m scripts.real.adapters [--ranks 4 8 16] [--documents 200]

Two tables are printed. In the first, the expert `sums` becomes an adapter of its base, which is
scored on sums in English. In the second, the adapters of `spanish` and `sums` are averaged into one
adapter, which is scored on sums in Spanish. The adapters are left in `runs/showcase/cut`.
`python -m scripts.real.prepare` makes the experts.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import evomerge
from evomerge.evaluation.inference.memory import peak_memory
from scripts.real import questions, tasks
from scripts.real.places import ADAPTERS, MODELS, ROOT

if TYPE_CHECKING:
    from evomerge.export.adapter import WrittenAdapter

_HEAD = ("", "rank", "lost, %", "score", "CPU seconds", "peak memory, GB")


def rows_of_extracted(
    base: str, model: str, config: Mapping[str, Any], ranks: Sequence[int], out: Path
) -> Iterator[Sequence[str]]:
    """Yield rows: the base, the change of a model cut to each rank, the model itself."""
    yield _row("base", base, config)
    for rank in ranks:
        folder = out / f"extracted-{rank}"
        yield _adapter(
            base, folder, partial(evomerge.extract, base, model, folder, rank=rank), config
        )
    yield _row(Path(model).name, model, config)


def rows_of_merged(
    base: str, adapters: Sequence[str], config: Mapping[str, Any], ranks: Sequence[int], out: Path
) -> Iterator[Sequence[str]]:
    """Yield rows: adapters, their average as one adapter of each rank and uncut, their merge."""
    parents = [f"{base}+{adapter}" for adapter in adapters]
    for parent in parents:
        yield _row(Path(parent).name, parent, config)
    out.mkdir(parents=True, exist_ok=True)
    recipe = out / "average.json"
    models = [{"model": parent, "parameters": {"weight": 1 / len(parents)}} for parent in parents]
    text = {"merge_method": "task_arithmetic", "base_model": base, "models": models}
    recipe.write_text(json.dumps(text | {"dtype": "float32"}), encoding="utf-8")
    for rank in (*ranks, None):
        folder = out / f"merged-{rank or 'uncut'}"
        write = partial(evomerge.merge_adapter, recipe, folder, rank=rank)
        yield _adapter(base, folder, write, config)
    yield _row("merged checkpoint", f"merge:{recipe}", config)


def search_file(
    base: str, other: str, task: str, include: Path | str, documents: int
) -> dict[str, Any]:
    """Return a search file whose test documents models are scored on."""
    few = {"documents": 1}
    return {
        "parents": [base, other],
        "base": base,
        "dtype": "bfloat16",
        "space": {"method": "task_arithmetic", "groups": "one", "knobs": {"weight": [0.0, 1.0]}},
        "objectives": [{"task": task, "metric": "exact_match"}],
        "evaluation": {
            "include": [str(include)],
            "search": few,
            "validation": few,
            "test": {"documents": documents},
        },
        "budget": {"candidates": 3},
    }


def table(rows: Iterator[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    for line in chain((_HEAD, ["---"] * len(_HEAD)), rows):
        yield f"| {' | '.join(line)} |"


def _row(name: str, model: str, config: Mapping[str, Any]) -> Sequence[str]:
    return name, "", "", _score(model, config), "", ""


def _adapter(
    base: str, folder: Path, write: Callable[[], WrittenAdapter], config: Mapping[str, Any]
) -> Sequence[str]:
    shutil.rmtree(folder, ignore_errors=True)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        written, seconds, memory = fresh.submit(_cost, write).result()
    lost = f"{100 * written.error:.1f}"
    score = _score(f"{base}+{folder}", config)
    return folder.name, str(written.rank), lost, score, f"{seconds:.0f}", f"{memory / 1e9:.1f}"


def _cost(write: Callable[[], WrittenAdapter]) -> tuple[WrittenAdapter, float, int]:
    """Call in a new process; return the result, CPU seconds without imports, and peak memory."""
    importlib.import_module("evomerge.merging.lowrank")
    started = time.process_time()
    written = write()
    return written, time.process_time() - started, peak_memory()["process"]


def _score(model: str, config: Mapping[str, Any]) -> str:
    (found,) = evomerge.evaluate(model, config).values()
    value, low, high = (100 * number for number in (found.value, found.low, found.high))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m scripts.real.adapters")
    parser.add_argument("--ranks", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--documents", type=int, default=200)
    arguments = parser.parse_args()
    out, base, sums = ROOT / "cut", str((MODELS / "base").resolve()), str(MODELS / "sums")
    tasks.write_task(out / "tasks", "english_sums", questions.sums("en"), "evaluation")
    tasks.write()
    english = search_file(base, sums, "english_sums", out / "tasks", arguments.documents)
    spanish = search_file(base, sums, "spanish_sums", ROOT / "tasks", arguments.documents)
    adapters = [str((ADAPTERS / name).resolve()) for name in ("spanish", "sums")]
    extracted = table(rows_of_extracted(base, sums, english, arguments.ranks, out))
    merged = table(rows_of_merged(base, adapters, spanish, arguments.ranks, out))
    for line in chain(extracted, [""], merged):
        print(line, flush=True)


if __name__ == "__main__":
    main()
