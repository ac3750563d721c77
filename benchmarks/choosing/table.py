"""The tables of `benchmarks/optimizers.py`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from choosing.records import Record

BASELINE = "random"


def scores(records: Sequence[Record], optimizer: str, count: int) -> dict[int, float]:
    """Return the winner's test score after this many candidates, in points, by seed."""
    return {
        record.seed: 100 * record.winners[count][1]
        for record in records
        if record.optimizer == optimizer and count in record.winners
    }


def mean_text(values: Sequence[float]) -> str:
    """Return the mean and its standard error."""
    if len(values) < 2:
        return f"{statistics.fmean(values):5.1f}" if values else ""
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):5.1f} ± {error:4.1f}"


def show(title: str, records: Sequence[Record]) -> None:
    """Print a table: an optimizer a row, the best one first, and a column for each count."""
    counts = sorted({count for record in records for count in record.winners})
    if not counts:
        return
    names = {record.optimizer for record in records}
    last = {name: scores(records, name, counts[-1]).values() for name in names}
    print(f"\n{title}\n")
    heads = [f"{count:,} candidates" for count in counts]
    print(f"| optimizer | {' | '.join(heads)} | CPU s of a search | CPU ms of the optimizer |")
    print("|---" * (len(counts) + 3) + "|")
    for name in sorted(names, key=lambda name: -statistics.fmean(last[name])):
        cells = [mean_text(list(scores(records, name, count).values())) for count in counts]
        own = [record.found for record in records if record.optimizer == name]
        each = 1000 * sum(one.seconds for one in own) / sum(len(one.genomes) for one in own)
        whole = statistics.fmean(one.scoring + one.seconds for one in own)
        print(f"| `{name}` | {' | '.join(cells)} | {whole:.0f} | {each:.2f} |", flush=True)


def show_costs(title: str, records: Sequence[Record]) -> None:
    """Print a table of what searches have cost: means over the seeds, and the score of each."""
    rows: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        for count in record.costs:
            rows.setdefault((record.optimizer, count), []).append(record)
    if not rows:
        return
    heads = ("search", "candidates", "search documents", "all documents", "CPU s")
    print(f"\n{title}\n\n| {' | '.join(heads)} | test score | each seed |")
    print("|---" * (len(heads) + 2) + "|")
    for (name, count), known in sorted(rows.items()):
        costs = [record.costs[count] for record in known]
        means = [
            f"{statistics.fmean(one.candidates for one in costs):.0f}",
            f"{statistics.fmean(one.search for one in costs):,.0f}",
            f"{statistics.fmean(one.documents for one in costs):,.0f}",
            f"{statistics.fmean(one.seconds for one in costs):.1f}",
        ]
        tested = scores(known, name, count)
        each = " ".join(f"{tested[seed]:.1f}" for seed in sorted(tested))
        print(f"| {name} | {' | '.join(means)} | {mean_text(list(tested.values()))} | {each} |")


def differences(label: str, records: Sequence[Record]) -> dict[str, float]:
    """Return the mean difference of each optimizer to random search with the same seeds."""
    found = {}
    counts = sorted({count for record in records for count in record.winners})
    for name in sorted({record.optimizer for record in records} - {BASELINE}):
        for count in counts:
            own, other = (scores(records, one, count) for one in (name, BASELINE))
            pairs = [own[seed] - other[seed] for seed in own if seed in other]
            if pairs:
                found[f"{label} {name} {count}"] = round(statistics.fmean(pairs), 1)
    return found
