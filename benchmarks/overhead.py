"""Measures what optimizers cost themselves: CPU time to propose candidates and to learn from them.

    python benchmarks/overhead.py [--quick] [--limit SECONDS] [--optimizers NAME ...]

A search has 300 candidates of 10, 200, 1,000 or 4,000 real genes. Each candidate is told before the
next one is asked for, as with one worker. The table shows the CPU time of `ask` and `tell` in
milliseconds a candidate. A search is stopped after `--limit` seconds, and its figure has a `>`,
since optimizers get slower rather than faster. Imports do not count.

The last line is one JSON object: optimizer and genes -> CPU time as a multiple of that of `random`;
searches that were stopped are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # CPU time is comparable with one thread only

from evomerge.optimize import BUILTIN, builtin, create
from evomerge.space.protocol import Gene

CANDIDATES = 300


def measure(name: str, count: int, limit: float) -> tuple[float, bool]:
    """Search once; return milliseconds a candidate, and whether the search was stopped."""
    genes = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(count)]
    objectives = 2 if builtin(name).objectives == "several" else 1
    optimizer = create(name, genes, seed=0, objectives=objectives)
    optimizer.tell(optimizer.ask(), [0.0] * objectives)  # imports what it needs
    began, done = time.process_time(), 0
    while done < CANDIDATES and time.process_time() - began < limit:
        genome = optimizer.ask()
        optimizer.tell(genome, [-abs(genome[0] - 0.3), -abs(genome[-1] - 0.6)][:objectives])
        done += 1
    return 1000 * (time.process_time() - began) / done, done < CANDIDATES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10 and 200 genes, 2 seconds each")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds of CPU time, each")
    parser.add_argument("--optimizers", nargs="+", help="by default all but `auto` and `grid`")
    options = parser.parse_args()
    counts = (10, 200) if options.quick else (10, 200, 1000, 4000)
    # `auto` is one of the others; the corners of a grid of 200 genes are too many.
    names = options.optimizers or [
        *(name for name in BUILTIN if name not in ("auto", "grid", "nevergrad:NAME")),
        *("nevergrad:DE", "nevergrad:PSO", "nevergrad:OnePlusOne"),
    ]
    ratios: dict[str, float] = {}
    plain: dict[int, float] = {}
    print(f"{'ms a candidate; genes':22}" + "".join(f"{count:10,}" for count in counts))
    for name in ["random", *(name for name in names if name != "random")]:
        print(f"{name:22}", end="")
        for count in counts:
            each, stopped = measure(name, count, 2.0 if options.quick else options.limit)
            plain.setdefault(count, each)
            print(f"{'>' if stopped else ''}{each:.2f}".rjust(10), end="", flush=True)
            if not stopped:
                ratios[f"{name}, {count} genes"] = round(each / plain[count], 1)
        print()
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
