"""Adapters at the size of a real model: what a rank cuts, what it scores, and what it costs.

    python -m scripts.real.adapters [--ranks 1 4 8 16] [--documents 200]

Three tables are printed. In the first, the expert `sums` becomes an adapter of its base, which is
scored on sums in English. In the second, the adapters of `spanish` and `sums` are averaged into one
adapter, which is scored on sums in Spanish, and in the third, so is a searched merge of them. The
adapters are left in `runs/showcase/cut`. `python -m scripts.real adapter` makes what is needed.
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
from scripts.real.places import ADAPTERS, MODELS, ROOT, RUNS

if TYPE_CHECKING:
    from evomerge.export.adapter import WrittenAdapter

_IMPORTED = "evomerge.merging.lowrank"
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
    base: str, recipe: Path, config: Mapping[str, Any], ranks: Sequence[int | None], out: Path
) -> Iterator[Sequence[str]]:
    """Yield rows: a merge as an adapter of each rank (None: uncut), the merge itself."""
    for rank in ranks:
        folder = out / f"{recipe.stem}-{rank or 'uncut'}"
        write = partial(evomerge.merge_adapter, recipe, folder, rank=rank)
        yield _adapter(base, folder, write, config)
    yield _row(recipe.stem, f"merge:{recipe}", config)


def write_average(base: str, adapters: Sequence[str], out: Path) -> Path:
    """Write the average of adapters of a base as a mergekit file, and return it."""
    models = [
        {"model": f"{base}+{adapter}", "parameters": {"weight": 1 / len(adapters)}}
        for adapter in adapters
    ]
    text = {"merge_method": "task_arithmetic", "base_model": base, "models": models}
    file = out / "average.yaml"
    file.write_text(json.dumps(text | {"dtype": "float32"}), encoding="utf-8")
    return file


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
    context = multiprocessing.get_context("forkserver")  # which does the imports once
    context.set_forkserver_preload([_IMPORTED])
    with ProcessPoolExecutor(1, context) as fresh:
        written, seconds, memory = fresh.submit(_cost, write).result()
    lost = f"{100 * written.error:.1f}"
    score = _score(f"{base}+{folder}", config)
    return folder.name, str(written.rank), lost, score, f"{seconds:.0f}", f"{memory / 1e9:.1f}"


def _cost(write: Callable[[], WrittenAdapter]) -> tuple[WrittenAdapter, float, int]:
    """Call in a new process; return the result, CPU seconds without imports, and peak memory."""
    importlib.import_module(_IMPORTED)
    started = time.process_time()
    written = write()
    return written, time.process_time() - started, peak_memory()["process"]


def _score(model: str, config: Mapping[str, Any]) -> str:
    (found,) = evomerge.evaluate(model, config).values()
    value, low, high = (100 * number for number in (found.value, found.low, found.high))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m scripts.real.adapters")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--documents", type=int, default=200)
    arguments = parser.parse_args()
    found = RUNS / "adapter-gradients-0" / "best.yaml"
    if not found.is_file():
        parser.error(f"{found} is missing; `python -m scripts.real adapter` searches it")
    out, base, sums = ROOT / "cut", str((MODELS / "base").resolve()), str(MODELS / "sums")
    tasks.write_task(out / "tasks", "english_sums", questions.sums("en"), "evaluation")
    tasks.write()
    english = search_file(base, sums, "english_sums", out / "tasks", arguments.documents)
    spanish = search_file(base, sums, "spanish_sums", ROOT / "tasks", arguments.documents)
    ranks = arguments.ranks
    adapters = [str((ADAPTERS / name).resolve()) for name in ("spanish", "sums")]
    average = write_average(base, adapters, out)
    for rows in (
        rows_of_extracted(base, sums, english, ranks, out),
        rows_of_merged(base, average, spanish, [*ranks, None], out),
        rows_of_merged(base, found, spanish, ranks, out),
    ):
        for line in table(rows):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
