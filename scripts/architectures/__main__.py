"""Merges and stacks tiny models of many architectures, and checks the results with transformers.

    python -m scripts.architectures [--work DIR] [NAME ...]

For each architecture, two random models are made, merged (0.3 and 0.7), and stacked in two ways:
the first two blocks of one, then all blocks of the other; and the blocks of one in reverse order.
transformers loads the results. It must find every weight and leave none over. The weights of the
merge must be the average, those of the stacks must be the parents'. The logits of the stacks must
be those of stacks that are put together from the parents' modules. An architecture that the
installed transformers lacks, or that cannot be made small, is left out. The last line is one JSON
object with the counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from scripts.architectures.check import Verdict, check
from scripts.architectures.configs import GROUPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures; all if none")
    parser.add_argument("--work", type=Path, help="folder for the models, which are kept")
    arguments = parser.parse_args()
    names = arguments.names or [name for names in GROUPS.values() for name in names]
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        for name, found in _checked(names, work):
            for what, (verdict, told) in found.items():
                counts[f"{what} {verdict}"] += 1
                print(f"{name:20}{what:9}{verdict:11}{told}", flush=True)
    print(json.dumps(dict(sorted(counts.items()))))


def _checked(names: Sequence[str], work: Path) -> Iterator[tuple[str, dict[str, Verdict]]]:
    """Check architectures in another process, which is replaced if it runs out of memory."""
    pool = ProcessPoolExecutor(1)
    for name in names:
        try:
            yield name, pool.submit(check, name, work / name).result()
        except BrokenProcessPool:
            yield name, {"model": ("left out", "the process was killed")}
            pool = ProcessPoolExecutor(1)
    pool.shutdown()


if __name__ == "__main__":
    main()
