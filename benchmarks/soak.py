"""Attacks evomerge: kills, files with something wrong in them, many candidates, cuts.

    python benchmarks/soak.py [--quick] [--parts PART ...] [--kills N] [--mutations N]
                              [--candidates N] [--cuts N] [--parsers NAME ...]
                              [--searches NAME ...] [--out FOLDER]

- `kills`: real searches of many kinds are killed with SIGKILL at random moments, and resumed after
  each kill, to their end. The journal and the YAML files must be those of a search that was never
  killed, byte for byte.
- `mutations`: every parser of files from strangers reads files that are nearly valid. Each file
  must give a value or one short sentence, within 5 seconds of CPU time and 1 GB of memory.
- `candidates`: one long search. Memory, open files and time of a candidate must not grow, and no
  temporary file may be left.
- `cuts`: a journal that is cut at any byte is opened, and the search that it belongs to goes on.

Runs that differ, and files that are not read as promised, are kept in the folder `--out`. `--quick`
takes some minutes, the whole of it less than an hour on two cores.

The last line is one JSON object: part -> attacks tried, attacks survived, figures, faults.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from soaking.part import Part

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("kills", "mutations", "candidates", "cuts")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small number of everything")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--mutations", type=int)
    parser.add_argument("--candidates", type=int)
    parser.add_argument("--cuts", type=int)
    parser.add_argument("--parsers", nargs="+", default=(), help="of `mutations`; default: all")
    parser.add_argument("--searches", nargs="+", default=(), help="of `kills`; default: all")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    given = parser.parse_args()
    long = {"kills": 325, "mutations": 30_000, "candidates": 3_000, "cuts": 700}
    quick = {"kills": 13, "mutations": 1_000, "candidates": 60, "cuts": 40}
    for name, number in (quick if given.quick else long).items():
        if getattr(given, name) is None:
            setattr(given, name, number)
    return given


def main() -> None:
    given = arguments()
    # Searches and children import the package and the tests' modules of this checkout.
    paths = [
        str(ROOT),
        str(ROOT / "tests"),
        str(ROOT / "tests" / "shared"),
        str(ROOT / "benchmarks"),
    ]
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from soaking import candidates, cuts, kills, mutations

    out = given.out.resolve()
    parts = {name: Part(name) for name in given.parts}
    for name, part in parts.items():
        match name:
            case "kills":
                kills.soak(part, given.kills, given.searches, out / "kills")
            case "mutations":
                mutations.soak(part, given.mutations, given.parsers, out / "files")
            case "candidates":
                candidates.soak(part, given.candidates, out / "candidates")
            case _:
                cuts.soak(part, given.cuts, out / "cuts")
    show(parts)


def show(parts: dict[str, Part]) -> None:
    print(f"\n{'part':12} {'tried':>8} {'survived':>9}")
    for part in parts.values():
        print(f"{part.name:12} {part.tried:8,} {part.survived:9,}")
        for name, value in part.details.items():
            figures = value.items() if isinstance(value, dict) else [("", value)]
            print(f"  {name:20} " + ", ".join(f"{key} {number}".strip() for key, number in figures))
    faults = [f"{part.name}: {fault}" for part in parts.values() for fault in part.faults]
    print("\n".join(faults) if faults else "no fault")
    print(json.dumps({name: asdict(part) for name, part in parts.items()}))


if __name__ == "__main__":
    main()
