"""Measures what optimizers cost themselves: CPU time to propose candidates and to learn from them.

    python benchmarks/overhead.py [--quick] [--limit SECONDS] [--optimizers NAME ...]

A search has 10, 200, 1,000 or 4,000 real genes. Each candidate is told before the next one is
asked for, as with one worker. The table shows the CPU time of `ask` and `tell` in milliseconds a
candidate, in a search of 300 and of 1,000 candidates, and the seconds of CPU time that it takes to
repeat the calls of 10,000 candidates, which a resumed search does before it goes on. A search is
stopped after `--limit` seconds. What it did not do is taken to cost as much as its last tenth did,
and the figure has a `>`, since optimizers get slower rather than faster. Imports do not count.

The last line is one JSON object: optimizer, genes and candidates -> CPU time as a multiple of that
of `random`; searches that were stopped are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")  # CPU time is comparable with one thread only

from evomerge.optimize import BUILTIN, builtin, create
from evomerge.space.protocol import Gene

GENES = (10, 200, 1000, 4000)
REPLAYED = 10_000
LENGTHS = (300, 1000, REPLAYED)


@dataclass(frozen=True)
class Cost:
    """What a search of some length has cost.

    Attributes:
        seconds: CPU time.
        last: CPU time of a candidate of its last tenth, in seconds.
        done: number of candidates; fewer than the length if the search was stopped.
    """

    seconds: float
    last: float
    done: int


def measure(name: str, count: int, lengths: tuple[int, ...], limit: float) -> dict[int, Cost]:
    """Search once; return what it has cost after each of these numbers of candidates."""
    genes = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(count)]
    objectives = 2 if builtin(name).objectives == "several" else 1
    optimizer = create(name, genes, seed=0, objectives=objectives)
    optimizer.tell(optimizer.ask()[0], [0.0] * objectives)  # imports what it needs
    costs: dict[int, Cost] = {}
    begin, steps = time.process_time(), [0.0]
    for number in range(1, max(lengths) + 1):
        trial, genome = optimizer.ask()
        optimizer.tell(trial, [-abs(genome[0] - 0.3), -abs(genome[-1] - 0.6)][:objectives])
        steps.append(time.process_time() - begin)
        stopped = steps[-1] > limit
        if number in lengths or stopped:
            part = max(1, number // 10)
            last = (steps[-1] - steps[-1 - part]) / part
            for length in lengths if stopped else (number,):
                if length not in costs and length >= number:
                    costs[length] = Cost(steps[-1], last, number)
        if stopped:
            break
    return costs


def whole(cost: Cost, length: int) -> float:
    """Return the CPU time of a search of this length; of a stopped one, what it is at least."""
    return cost.seconds + (length - cost.done) * cost.last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10 and 200 genes, 2 seconds each")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds of CPU time, each")
    parser.add_argument("--genes", type=int, nargs="+", default=list(GENES))
    parser.add_argument("--optimizers", nargs="+", help="by default all but `auto` and `grid`")
    options = parser.parse_args()
    counts = (10, 200) if options.quick else options.genes
    limit = 2.0 if options.quick else options.limit
    # `auto` is `cma` or `diagonal-cma`; the corners of a grid of 200 genes are too many.
    names = options.optimizers or [
        *(name for name in BUILTIN if name not in ("auto", "grid", "nevergrad:NAME")),
        *("nevergrad:DE", "nevergrad:PSO", "nevergrad:OnePlusOne"),
    ]
    names = ["random", *(name for name in names if name != "random")]
    costs: dict[tuple[str, int, int], Cost] = {}
    print(f"{'optimizer':21}{'genes':>6}{'300, ms':>12}{'1000, ms':>12}{'10000, s':>12}")
    for name in names:
        for count in counts:
            found = measure(name, count, LENGTHS, limit)
            costs |= {(name, count, length): cost for length, cost in found.items()}
            print(f"{name:21}{count:6}", end="")
            for length in LENGTHS:
                cost = found[length]
                seconds = whole(cost, length)
                figure = seconds if length == REPLAYED else 1000 * seconds / length
                print(f"{'' if cost.done == length else '>'}{figure:.2f}".rjust(12), end="")
            print(flush=True)
    ratios = {
        f"{name}, {count} genes, {length}": round(
            cost.seconds / costs["random", count, length].seconds, 1
        )
        for (name, count, length), cost in costs.items()
        if cost.done == length == costs["random", count, length].done
    }
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
