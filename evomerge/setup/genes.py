"""What a search varies, for people: its genes, and why those that the search file does not name."""

from __future__ import annotations

import re
from typing import Any

from evomerge.setup.checked import CheckedSearch
from evomerge.space.pool import PRIORITY
from evomerge.space.protocol import Gene

HEADERS = ("searched", "genes", "values", "start", "set by")


def gene_list(checked: CheckedSearch) -> list[dict[str, Any]]:
    """Return all genes with range and start, as plain JSON values, in the order of the genome.

    A choice has no start: all its values are equally likely at first.
    """
    return [
        {
            "name": gene.name,
            "kind": gene.kind,
            "low": gene.low,
            "high": gene.high,
            "start": None if gene.kind == "choice" else gene.start,
            **({"choices": list(gene.choices)} if gene.choices else {}),
        }
        for gene in checked.space.genes
    ]


def gene_ranges(checked: CheckedSearch) -> list[dict[str, Any]]:
    """Return each different range once, with the names of its genes, for the frozen search file."""
    names: dict[tuple[str, float, float, tuple[str, ...]], list[str]] = {}
    for gene in checked.space.genes:
        key = (gene.kind, float(gene.low), float(gene.high), gene.choices)
        names.setdefault(key, []).append(gene.name)
    return [
        {
            "genes": genes,
            "kind": kind,
            "low": low,
            "high": high,
            **({"choices": list(choices)} if choices else {}),
        }
        for (kind, low, high, choices), genes in names.items()
    ]


def gene_rows(checked: CheckedSearch) -> list[tuple[str, ...]]:
    """Return a row for each group of genes that differ only in their place; see `HEADERS`.

    The last cell names what in the search file makes a knob vary. A knob that `space.knobs` does
    not name is searched in its method's own range.
    """
    knobs = _knobs(checked)
    groups: dict[tuple[str, str, str], list[Gene]] = {}
    for gene in checked.space.genes:
        start = "undecided" if gene.kind == "choice" else f"{gene.start:.4g}"
        key = (_group(gene, knobs), _values(gene), start)
        groups.setdefault(key, []).append(gene)
    return [
        (name, str(len(genes)), values, start, _reason(name, checked, knobs))
        for (name, values, start), genes in groups.items()
    ]


def _knobs(checked: CheckedSearch) -> set[str]:
    """Return the last parts of the names of genes that belong together; none on paths."""
    from evomerge.merging.methods import get_method

    if checked.config.space.kind == "dataflow":
        return set()
    methods = checked.config.space.methods
    names = {knob.name for method in methods for knob in get_method(method).knobs}
    return names | {"method", PRIORITY}


_PLACE = re.compile(r"(?<=\[)\d+(?=\])|(?<=slice)\d+|(?<=block)\d+")


def _group(gene: Gene, knobs: set[str]) -> str:
    last = gene.name.rpartition(".")[2]
    return last if last in knobs else _PLACE.sub("N", gene.name)


def _values(gene: Gene) -> str:
    if gene.kind == "binary":
        return "0 or 1"
    if gene.kind == "choice":
        return ", ".join(gene.choices) if len(gene.choices) < 4 else f"{len(gene.choices)} choices"
    whole = "whole, " if gene.kind == "integer" else ""
    return f"{whole}{gene.low:.4g} to {gene.high:.4g}"


def _reason(name: str, checked: CheckedSearch, knobs: set[str]) -> str:
    if name in checked.config.space.knobs:
        return f"space.knobs.{name}"
    if name == PRIORITY:
        return "space.most_parents; in from 0.5 on"
    if name == "method":
        return "space.method"
    if name in knobs:
        return f"the method's range; space.knobs.{name} fixes it"
    return "space"
