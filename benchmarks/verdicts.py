"""How often a front is said to have a merge that beats every parent, where this is known.

    python benchmarks/verdicts.py [--quick] [--runs N]

Answers of a parent and of the merges on a front are drawn: right or wrong, and a number of tokens
(lognormal, up to the limit of the task). A merge answers two thirds of the documents as the parent
does. A row is a kind of merge, and a column a number of test documents; the cells are shares of
runs with the verdict "Yes" (`evomerge.report.beating`, with the usual margins). In the last rows,
the limit of tokens varies, or some answers of the merges run away to it. `--quick` takes fewer runs
and documents. The last line is one JSON object: what was measured -> share.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.report import means
from evomerge.report.beating import OTHER_MARGIN, SHARE_MARGIN, p_value, rejected
from evomerge.report.means import Sample

RIGHT = 0.6
"""Accuracy of the parent."""

AGREE = 2 / 3
"""Share of the documents that a merge answers as the parent does."""


@dataclass(frozen=True)
class Kind:
    """Merges on a front that are all alike.

    Attributes:
        name: what they are like.
        accuracy: true accuracy minus that of the parent.
        tokens: true mean number of tokens, as a share of the parent's.
        members: number of merges on the front.
        limit: an answer has at most so many tokens.
        is_known: whether the limit is known.
        runaway: share of the answers of a merge that go on to the limit.
        spread: standard deviation of the logarithm of the number of tokens.
    """

    name: str
    accuracy: float
    tokens: float
    members: int = 1
    limit: float = 512
    is_known: bool = True
    runaway: float = 0.0
    spread: float = 0.5


WORSE = Kind("-2 points, tokens -10 %, 1 merge", -0.02, 0.9)
EQUAL = (
    Kind("equal, 1 merge", 0.0, 1.0),
    Kind("equal, 10 merges", 0.0, 1.0, 10),
    Kind("equal, 20 merges", 0.0, 1.0, 20),
)
BETTER = (
    Kind("+8 points, tokens equal, 1 merge", 0.08, 1.0),
    Kind("+8 points, tokens equal, 1 of 10 merges", 0.08, 1.0, 10),
    Kind("+8 points, tokens -10 %, 1 merge", 0.08, 0.9),
    Kind("+8 points, tokens -10 %, 1 of 10 merges", 0.08, 0.9, 10),
    Kind("+4 points, tokens -10 %, 1 merge", 0.04, 0.9),
    Kind("equal accuracy, tokens -10 %, 1 merge", 0.0, 0.9),
)
LIMITS = tuple(
    Kind(f"+8 points, tokens -10 %, limit {limit}", 0.08, 0.9, limit=limit)
    for limit in (256, 1024, 2048)
)
UNKNOWN = Kind("+8 points, tokens -10 %, limit unknown", 0.08, 0.9, is_known=False)
RUNAWAY = tuple(
    Kind(
        f"+12 points, {share:g} % run away to 2048{'' if known else ', unknown'}",
        0.12,
        1.0,
        limit=2048,
        is_known=known,
        runaway=share / 100,
        spread=0.1,
    )
    for share in (1.0, 0.5)
    for known in (True, False)
)


def share_of_yes(kind: Kind, documents: int, runs: int, generator: np.random.Generator) -> float:
    """Return the share of runs in which a merge is said to beat the parent.

    Where a kind is better than the parent, only the first merge is of that kind; the others are as
    good as the parent.
    """
    is_first = np.arange(kind.members) == 0
    alike = is_first if kind.accuracy > 0 else np.ones(kind.members, dtype=bool)
    accuracy, factor = np.where(alike, kind.accuracy, 0.0), np.where(alike, kind.tokens, 1.0)
    shape = (runs, kind.members, documents)
    right, easy = generator.random((2, runs, 1, documents))
    parent = right < RIGHT
    alone = RIGHT + accuracy[:, None] / (1 - AGREE)
    own = np.where(generator.random(shape) < AGREE, parent, generator.random(shape) < alone)
    gained, lost = (own & ~parent).mean(axis=-1), (~own & parent).mean(axis=-1)
    answers = Sample(
        np.array([-1.0, 0.0, 1.0]),
        np.stack([lost, 1 - gained - lost, gained], axis=-1),
        documents,
        np.array(-1.0),
        np.array(1.0),
    )
    theirs, ours = _tokens(kind, generator, easy), _tokens(kind, generator, easy, shape)
    ours = np.where(generator.random(shape) < kind.runaway, kind.limit, factor[:, None] * ours)
    theirs, ours = np.minimum(theirs, kind.limit), np.minimum(ours, kind.limit)
    tokens = _saved(theirs, ours, kind.limit if kind.is_known else None)
    margin = OTHER_MARGIN * theirs.mean(axis=-1)
    found = p_value(
        [1 - means.confidence([item]) for item in (answers, tokens)],
        [1 - means.confidence([answers], -SHARE_MARGIN), 1 - means.confidence([tokens], -margin)],
        tries=2,
    )
    yes = [bool(rejected({str(number): p for number, p in enumerate(row)})) for row in found]
    return float(np.mean(yes))


def _saved(theirs: Any, ours: Any, limit: float | None) -> Sample:
    """Return the saved tokens of each document; fewer are better."""
    if limit is not None:
        return Sample.of(theirs - ours, (-limit, limit), is_share=False)
    largest = np.maximum(theirs.max(axis=-1), ours.max(axis=-1))
    smallest = np.minimum(theirs.min(axis=-1), ours.min(axis=-1))
    return Sample.of(theirs - ours, reach=largest - smallest)


def _tokens(
    kind: Kind, generator: np.random.Generator, easy: Any, shape: tuple[int, ...] | None = None
) -> Any:
    """Return numbers of tokens: more on documents that are long for all models."""
    from scipy.stats import norm

    own = generator.normal(size=easy.shape if shape is None else shape)
    return 100 * np.exp(kind.spread * (np.sqrt(0.7) * norm.ppf(easy) + np.sqrt(0.3) * own))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs and documents")
    parser.add_argument("--runs", type=int, help="runs of each cell (400; with --quick 200)")
    options = parser.parse_args()
    runs = options.runs or (200 if options.quick else 400)
    sizes = [50, 200] if options.quick else [50, 200, 500]
    print(f"{'a front of merges that are':46}" + "".join(f"{size:>7}" for size in sizes))
    found = {}
    for kind in (WORSE, *EQUAL, *BETTER, *LIMITS, UNKNOWN, *RUNAWAY):
        shares = []
        for size in sizes:
            generator, done = np.random.default_rng(0), 0
            parts = []
            while done < runs:  # so many runs at once that memory stays small
                count = min(runs - done, max(1, 2_000_000 // (size * kind.members)))
                parts.append(count * share_of_yes(kind, size, count, generator))
                done += count
            shares.append(sum(parts) / runs)
            found[f"{kind.name}, {size} documents"] = round(shares[-1], 4)
        print(f"{kind.name:46}" + "".join(f"{100 * share:7.1f}" for share in shares), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
