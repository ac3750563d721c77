"""Scores and genes of candidates, with a column for each part of their names."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import TYPE_CHECKING, Any

from evomerge.scores import SPLITS

if TYPE_CHECKING:
    from evomerge.report.view import View

SCORE_COLUMNS = (
    *("candidate", "origin", "split", "task", "metric", "value", "documents", "is_estimate"),
)
GENE_COLUMNS = ("candidate", "gene", "place", "component", "parent", "knob", "value")


def score_rows(view: View) -> list[tuple[Any, ...]]:
    """Return a row of `SCORE_COLUMNS` for each score; see `Run.scores`."""
    rows = list[tuple[Any, ...]]()
    for candidate, split in product((*view.history.candidates, *view.history.bases), SPLITS):
        if (scores := candidate.scores(split)) is None:
            continue
        origin = "base" if candidate.number < 0 else candidate.name
        for key, value in scores.aggregates.items():
            task, _, metric = key.rpartition("/")
            is_estimate = split == "search" and candidate.is_estimate
            count = len(scores.documents.get(task, ()))
            rows.append((candidate.number, origin, split, task, metric, value, count, is_estimate))
    return rows


def gene_rows(view: View) -> list[tuple[Any, ...]]:
    """Return a row of `GENE_COLUMNS` for each gene of each proposal; see `Run.gene_values`."""
    parts = [(name, *parts_of(name, view.names.values())) for name in view.genes]
    return [
        (candidate.number, *part, value)
        for candidate in view.history.candidates
        if len(candidate.genome) == len(parts)
        for part, value in zip(parts, candidate.genome, strict=True)
    ]


def parts_of(gene: str, parents: Iterable[str]) -> tuple[str, str, str, str]:
    """Return the place, component, parent and knob in the name of a gene; "" for what is not there.

    Names of parents may have dots.

    >>> parts_of("layers[0:2].attention.org/model-1.5.weight", ["org/model-1.5"])
    ('layers[0:2]', 'attention', 'org/model-1.5', 'weight')
    >>> parts_of("method", [])
    ('', '', '', 'method')
    """
    place, _, knob = gene.rpartition(".")
    parent = ""
    for name in sorted(parents, key=len, reverse=True):
        if f".{place}".endswith(f".{name}"):
            place, parent = place[: -len(name)].removesuffix("."), name
            break
    place, _, component = place.partition(".")
    return place, component, parent, knob
