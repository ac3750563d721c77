"""Compares the fronts of runs with two objectives or more by their hypervolume on test documents.

    python benchmarks/fronts.py --box WORST:BEST,WORST:BEST,... RUN ...

`--box` has the worst and the best value of each objective, in the order of the search file and as
the run prints them (`0:1,24:0` for an accuracy and a number of tokens). The hypervolume is the
share of this box in which a parent or a finalist is better in all objectives. It is printed for the
parents alone, and for all that was tested. The last line is one JSON object: run -> both.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from pymoo.indicators.hv import HV

import evomerge
from evomerge.scores import MODEL


def measure(folder: Path, box: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the hypervolumes of a run's parents, and of all that it has tested."""
    run = evomerge.Run(folder)
    rows = run.candidates
    keys = [f"test {item.task or MODEL}/{item.metric}" for item in run.config.objectives]
    tested = rows.dropna(subset=keys)
    worst, best = np.array(box).T

    def volume(values: np.ndarray) -> float:
        shares = np.clip((values - worst) / (best - worst), 0.0, 1.0)
        return float(HV(ref_point=np.zeros(len(box)))(-shares)) if len(shares) else 0.0

    parents = tested[tested["origin"].isin(run.config.parents)]
    return volume(parents[keys].to_numpy(float)), volume(tested[keys].to_numpy(float))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--box", required=True, metavar="WORST:BEST,...")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    options = parser.parse_args()
    sides = (side.split(":") for side in options.box.split(","))
    box = [(float(worst), float(best)) for worst, best in sides]
    found = {}
    for run in options.runs:
        parents, everything = measure(run, box)
        print(f"{run.name:24} parents {parents:.3f}, with the front {everything:.3f}")
        found[run.name] = {"parents": round(parents, 3), "front": round(everything, 3)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
