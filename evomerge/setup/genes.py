"""What a search varies, for people: its genes, and why those that the search file does not name."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from evomerge.config.space import ParametersConfig
from evomerge.report.words import renamed, short_names
from evomerge.setup.checked import CheckedSearch
from evomerge.space.pool import PRIORITY
from evomerge.space.protocol import Gene

HEADERS = ("searched", "genes", "values", "start", "set by")

_PLACE = re.compile(r"(?<=\[)\d+(?=\])|(?<=slice)\d+|(?<=block)\d+")


def shown_genes(checked: CheckedSearch) -> list[Gene]:
    """Return the genes, in the order of the genome, with the names of parents that people read."""
    names = short_names(checked.checkpoints)
    return [
        replace(
            gene,
            name=renamed(gene.name, names),
            choices=tuple(names.get(choice, choice) for choice in gene.choices),
        )
        for gene in checked.space.genes
    ]


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
        for gene in shown_genes(checked)
    ]


def gene_rows(checked: CheckedSearch) -> list[tuple[str, ...]]:
    """Return a row for each group of genes that differ only in their place; see `HEADERS`.

    The last cell names what in the search file makes a knob vary. A knob that `space.knobs` does
    not name is searched in its method's own range.
    """
    from evomerge.merging.methods import get_method

    space = checked.config.space
    reasons = {PRIORITY: "space.most_parents; in from 0.5 on", "method": "space.method"}
    if isinstance(space, ParametersConfig):
        knobs = {knob.name for name in space.methods for knob in get_method(name).knobs}
        reasons |= {name: f"the method's range; space.knobs.{name} fixes it" for name in knobs}
        reasons |= {name: f"space.knobs.{name}" for name in space.knobs}
    groups: dict[tuple[str, str, str], int] = {}
    for gene in shown_genes(checked):
        last = gene.name.rpartition(".")[2]
        name = last if last in reasons else _PLACE.sub("N", gene.name)
        start = "undecided" if gene.kind == "choice" else f"{gene.start:.4g}"
        key = (name, _values(gene), start)
        groups[key] = groups.get(key, 0) + 1
    return [
        (name, str(count), values, start, reasons.get(name, "space"))
        for (name, values, start), count in groups.items()
    ]


def _values(gene: Gene) -> str:
    if gene.kind == "binary":
        return "0 or 1"
    if gene.kind == "choice":
        return ", ".join(gene.choices) if len(gene.choices) < 4 else f"{len(gene.choices)} choices"
    whole = "whole, " if gene.kind == "integer" else ""
    return f"{whole}{gene.low:.4g} to {gene.high:.4g}"
