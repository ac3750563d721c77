"""How often a search that goes on after its tests is said to have worked, where it has not.

    python benchmarks/winners.py [--quick] [--runs N]

A search is tested, goes on with more candidates (`evomerge resume --candidates`), and the next
winner is tested on the same documents, and so on. Every winner is as good as the parent: it answers
two thirds of the documents as the parent does. A column is a number of winners; the cells are
shares of searches in which some winner had the verdict "Yes", in per cent. The first row of a
number of documents is what verdicts say, the second one the rule "95 % interval above 0" for each.
The last line is one JSON object: what was measured -> share.
"""

from __future__ import annotations

import argparse
import json
from functools import lru_cache

import numpy as np

from evomerge.report.confidence import Comparison, compare
from evomerge.report.standings import Standing
from evomerge.report.tables import Winner
from evomerge.run.history import Candidate
from evomerge.scores import Objective, Scores

RIGHT = 0.6
"""Accuracy of all models."""

AGREE = 2 / 3
"""Share of the documents that a winner answers as the parent does."""

WINNERS = (1, 3, 5, 8)
DOCUMENTS = (25, 100, 200, 1000)
OBJECTIVE = Objective("task", "acc")


@lru_cache(None)
def compared(gained: int, lost: int, documents: int) -> Comparison:
    """Compare a winner that has gained and lost right answers; the other documents are equal."""

    def scores(first: float) -> Scores:
        values = (first,) * gained + (1 - first,) * lost + (1.0,) * (documents - gained - lost)
        ids = {"task": tuple(range(documents))}
        return Scores(ids, {OBJECTIVE.key: values}, {OBJECTIVE.key: float(np.mean(values))})

    found = compare([OBJECTIVE], scores(1.0), scores(0.0))
    assert found is not None
    return found


@lru_cache(None)
def works(gained: int, lost: int, documents: int, earlier: int) -> bool:
    """Return whether the verdict is "Yes" after so many earlier winners."""
    table = Winner(
        rows=[Standing("parent", 0, {}), Standing("searched", 1, {})],
        columns=[OBJECTIVE.key],
        objectives=[OBJECTIVE],
        comparisons={"parent": compared(gained, lost, documents)},
        compared_on="test",
        earlier=earlier,
    )
    return table.verdict(Candidate(1, None, "")).works is True


def shares_of_yes(documents: int, runs: int, seed: int = 0) -> tuple[list[float], list[float]]:
    """Return the share of searches with a "Yes" after 1, 2, ... winners, and by the plain rule."""
    generator, most = np.random.default_rng(seed), max(WINNERS)
    said, plain = np.zeros((2, runs, most), dtype=bool)
    for run in range(runs):
        parent = generator.random(documents) < RIGHT
        own = generator.random((most, documents)) < RIGHT
        own = np.where(generator.random((most, documents)) < AGREE, parent, own)
        gained, lost = (own & ~parent).sum(axis=1), (~own & parent).sum(axis=1)
        for number, counts in enumerate(zip(gained.tolist(), lost.tolist(), strict=True)):
            said[run, number] = works(*counts, documents, number)
            plain[run, number] = compared(*counts, documents).difference.low > 0
    once = (np.logical_or.accumulate(found, axis=1).mean(axis=0) for found in (said, plain))
    first, second = once
    return first.tolist(), second.tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer searches")
    parser.add_argument("--runs", type=int, help="searches of a row (10,000; with --quick 1,000)")
    options = parser.parse_args()
    runs = options.runs or (1000 if options.quick else 10_000)
    print(f"{'winners':34}" + "".join(f"{count:>7}" for count in WINNERS))
    found = {}
    for documents in DOCUMENTS:
        rules = zip(("verdict", "interval above 0"), shares_of_yes(documents, runs), strict=True)
        for rule, shares in rules:
            cells = {count: shares[count - 1] for count in WINNERS}
            name = f"{documents} documents, {rule}"
            found |= {f"{name}, {count} winners": round(cells[count], 4) for count in WINNERS}
            print(f"{name:34}" + "".join(f"{100 * share:7.2f}" for share in cells.values()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
