"""What of the figures of `evomerge compare` predicts how a merge does?

    python benchmarks/compare.py [--quick] [--out runs/compare] [--showcase runs/showcase/models]

Experts of the embedded family are trained in several ways (some CPU minutes, once), and
merged by twos and threes. A row is a figure of the weights; the columns are its rank correlations
(Spearman) with the score of the uniform merge minus that of the best expert, and with the score of
a merge that was searched by gradients (8 candidates, 40 documents of each task), on the mean of the
experts' own tasks. "Change of both" is that of attention and mlp together; "within" compares merges
for the same tasks only. The intervals are of a bootstrap over experts. Then come the merges of the
showcase, if its models are there, with their scores from docs/results.md. `--quick` takes the
experts of the package and few documents. The last line is one JSON object: figure -> correlation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from comparing.correlation import spearman
from comparing.worlds import (
    World,
    best_parent,
    figures,
    measured,
    plain_scores,
    record,
    searched,
    worlds,
)

from evomerge.models.references import open_parent
from evomerge.report.parents.weights import compare_weights

SHOWCASE: dict[str, tuple[str, Sequence[str], float, float, float]] = {
    "spanish": ("base", ("spanish", "sums"), 1.7, 65.2, 87.8),
    "json": ("base", ("json", "backwards"), 0.0, 43.7, 85.9),
    "three": ("base", ("json", "sums", "backwards"), 0.0, 12.7, 42.3),
    "qwen": ("qwen", ("qwen-json", "qwen-backwards"), 0.8, 87.0, 98.8),
    "encoders": ("minilm", ("minilm-spanish", "minilm-german"), 8.9, 48.3, 76.6),
}
"""Composition of the showcase -> base, experts; best expert, uniform and searched merge (mean over
seeds) on test documents in docs/results.md. No expert was trained for these tasks."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few experts and documents")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--showcase", type=Path, default=Path("runs/showcase/models"))
    options = parser.parse_args()
    models = options.out / "models"
    chosen, documents, searches = worlds(), 300, 12
    if options.quick:
        chosen = [item for item in chosen if not any("-" in name for name in item.experts)]
        documents, searches = 40, 0
    known: dict[World, Mapping[str, float]] = {}
    scores: dict[World, Mapping[str, float]] = {}
    for world in chosen:
        file = options.out / ("quick" if options.quick else "records") / f"{world.name}.json"
        known[world] = measured(world, models)
        scores[world] = record(file, lambda w=world: plain_scores(w, models, documents))
    two = [world for world in chosen if world.kind == "two skills"]
    step = -(-len(two) // searches) if searches else 1
    reached = {world: 100 * searched(world, models) for world in (two[::step] if searches else [])}
    print_groups(chosen, known, scores, reached)
    found = print_correlations(chosen, known, scores, reached)
    print_showcase(options.showcase)
    print(json.dumps(found))


def gain(world: World, scores: Mapping[str, float]) -> float:
    """Return the points that the uniform merge has more than the best expert."""
    return 100 * (scores["uniform"] - best_parent(scores, world))


def print_groups(
    chosen: Sequence[World],
    known: Mapping[World, Mapping[str, float]],
    scores: Mapping[World, Mapping[str, float]],
    reached: Mapping[World, float],
) -> None:
    """Print how the merges of each kind do, and the range of two figures."""
    heads = ("n", "best expert", "uniform", "searched", "cosine", "change of both in %")
    print(f"{'merges of':14}{heads[0]:>4}" + "".join(f"{head:>20}" for head in heads[1:]))
    for kind in dict.fromkeys(world.kind for world in chosen):
        group = [world for world in chosen if world.kind == kind]
        found = [reached[world] for world in group if world in reached]
        cosines = [known[world]["cosine of task vectors"] for world in group]
        changes = [100 * known[world]["change of both, largest"] for world in group]
        cells = (
            f"{100 * fmean(best_parent(scores[world], world) for world in group):.1f}",
            f"{100 * fmean(scores[world]['uniform'] for world in group):.1f}",
            f"{fmean(found):.1f} ({len(found)} of them)" if found else "-",
            f"{min(cosines):.2f} to {max(cosines):.2f}",
            f"{min(changes):.1f} to {max(changes):.1f}",
        )
        print(f"{kind:14}{len(group):4}" + "".join(f"{cell:>20}" for cell in cells))
    print()


def print_correlations(
    chosen: Sequence[World],
    known: Mapping[World, Mapping[str, float]],
    scores: Mapping[World, Mapping[str, float]],
    reached: Mapping[World, float],
) -> dict[str, float | None]:
    """Print a row for each figure; return figure and outcome -> correlation."""
    gains = {world: gain(world, scores[world]) for world in chosen}
    two = [world for world in chosen if world.kind == "two skills"]
    columns = {
        "all: uniform - best": (chosen, gains, plain),
        "within two skills": (two, gains, within),
        "within: searched": (list(reached), reached, within),
    }
    print(f"{'Spearman with':28}" + "".join(f"{name:>26}" for name in columns))
    print(f"{'n':28}" + "".join(f"{len(group):>26}" for group, _, _ in columns.values()))
    found: dict[str, float | None] = {}
    for figure in known[chosen[0]]:
        cells = []
        for name, (group, outcome, prepared) in columns.items():
            item = spearman(
                [world.experts for world in group],
                prepared(group, [known[world][figure] for world in group]),
                prepared(group, [outcome[world] for world in group]),
            )
            cells.append("-" if item is None else item.text)
            found[f"{figure}: {name}"] = None if item is None else round(item.value, 3)
        print(f"{figure:28}" + "".join(f"{cell:>26}" for cell in cells))
    print()
    return found


def plain(group: Sequence[World], values: Sequence[float]) -> list[float]:
    """Return values as they are."""
    return list(values)


def within(group: Sequence[World], values: Sequence[float]) -> list[float]:
    """Return values minus their mean over the merges for the same tasks."""
    of_tasks: dict[tuple[str, ...], list[float]] = {}
    for world, value in zip(group, values, strict=True):
        of_tasks.setdefault(tuple(world.tasks), []).append(value)
    return [v - fmean(of_tasks[tuple(w.tasks)]) for w, v in zip(group, values, strict=True)]


def print_showcase(folder: Path) -> None:
    """Print the figures of the showcase's merges, if its models are there."""
    rows = []
    for name, (base, experts, best, uniform, search) in SHOWCASE.items():
        if all((folder / item).is_dir() for item in (base, *experts)):
            own, *others = (
                open_parent(str(folder / item), Path.cwd()) for item in (base, *experts)
            )
            began = time.process_time()
            found = figures(compare_weights(own, others))
            speed = sum(item.nbytes for item in (own, *others)) / (time.process_time() - began)
            rows.append((name, found, best, uniform, search, speed / 1e9))
    if not rows:
        print(f"the models of the showcase are not in {folder}; `make showcase` makes them\n")
        return
    print(f"{'showcase':28}" + "".join(f"{row[0]:>10}" for row in rows))
    for number, label in ((2, "best expert"), (3, "uniform merge"), (4, "searched merge")):
        print(f"{label:28}" + "".join(f"{row[number]:10.1f}" for row in rows))
    for figure in rows[0][1]:
        print(f"{figure:28}" + "".join(f"{row[1][figure]:10.3f}" for row in rows))
    print(f"{'GB in a CPU second':28}" + "".join(f"{row[5]:10.1f}" for row in rows))
    print()


if __name__ == "__main__":
    main()
