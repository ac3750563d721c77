"""Measures how far a search scales: the driver, simulated workers, and real ones on this machine.

    python benchmarks/scale.py [--quick] [--only PART ...] [--kinds KIND ...] [--picture FILE]

Three parts:

- `driver`: candidates a second of the real search loop, session, journal and strategy at 200 genes
  and 400 documents, with an executor that answers at once; and the time to resume a long run.
- `efficiency`: the real driver with simulated workers on a virtual clock (`scaling/simulation.py`).
  The time of a candidate is lognormal (sigma 0.5); 1 % take ten times as long and 1 % fail.
- `workers`: 1 and 2 real workers on this machine, against one and two independent processes that
  score the same candidates.

The time of the driver is its CPU time; it waits for no disk. `--quick` takes smaller numbers. The
last line is one JSON object of named ratios.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported

import argparse
import json
import logging
from pathlib import Path

from scaling.searches import warm_up

PARTS = ("driver", "efficiency", "workers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller numbers: about two minutes")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--kinds", nargs="+", default=["processes"], help="executors of `workers`")
    parser.add_argument("--rounds", type=int, help="rounds of `workers`")
    parser.add_argument("--picture", type=Path, help="SVG of the simulated efficiency")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warm_up()
    ratios: dict[str, float] = {}
    if "driver" in options.only:
        ratios |= driver(options.quick)
    if "efficiency" in options.only:
        ratios |= efficiency(options.quick, options.picture)
    if "workers" in options.only:
        ratios |= workers(options.quick, options.kinds, options.rounds)
    print(json.dumps(ratios))


def driver(quick: bool) -> dict[str, float]:
    """Measure the driver alone."""
    from scaling.driver import measure, settings, show

    wanted = settings(300, 1000)[:4] if quick else settings(2000, 10_000)
    return show([(setting, measure(setting)) for setting in wanted])


def efficiency(quick: bool, picture: Path | None) -> dict[str, float]:
    """Simulate workers."""
    from scaling.efficiency import HEAD, TARGET, line, lines, show_limits, simulations

    counts = (8, 64, 256) if quick else (8, 64, 256, 1024, 4096)
    rows = []
    print(f"\nSimulated workers with the real driver, 200 genes, 400 documents\n{HEAD}")
    for row in simulations(counts, (30.0,) if quick else (30.0, 3.0), 1000 if quick else 12_000):
        rows.append(row)
        print(line(row), flush=True)
    if picture is not None:
        from scaling.picture import draw

        points = {
            name: [(row.result.workers, row.result.efficiency) for row in group]
            for name, group in lines(rows).items()
        }
        draw(points, TARGET, picture)
    return show_limits(rows)


def workers(quick: bool, kinds: list[str], rounds: int | None) -> dict[str, float]:
    """Measure real workers."""
    from scaling.workers import measure, show

    return show(measure(kinds, 34 if quick else 164, rounds or (1 if quick else 5)))


if __name__ == "__main__":
    main()
