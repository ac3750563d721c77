"""Does everything: the models and tasks, the searches, and the table.

    python -m scripts.real [NAME ...] [--seeds 0 1 2]

NAME is a composition, `scripts/real/NAME.yaml`; the default is all. Call it again after an
interruption: what is finished is kept.
"""

from __future__ import annotations

import argparse

from scripts.real.places import ROOT
from scripts.real.prepare import prepare
from scripts.real.searches import COMPOSITIONS
from scripts.real.table import tables


def main() -> None:
    """Write the tables to `runs/showcase/results.md` and print them."""
    parser = argparse.ArgumentParser(prog="python -m scripts.real")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(COMPOSITIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(COMPOSITIONS):
        parser.error(f"{', '.join(sorted(unknown))}: NAME is one of {', '.join(COMPOSITIONS)}")
    prepare()
    text = tables(arguments.names or list(COMPOSITIONS), arguments.seeds)
    (ROOT / "results.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
