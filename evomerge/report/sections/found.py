"""What was found? The recipe of the best candidate: its genes, or its path through the layers."""

from __future__ import annotations

from evomerge.report.markup import code, folded, paragraph, picture
from evomerge.report.pictures import genome_bars
from evomerge.report.view import View
from evomerge.space.paths.path import describe


def found(view: View) -> list[str]:
    """Return the section; empty if there is no candidate yet."""
    if view.best is None:
        return []
    winner = view.history.winner is view.best
    name = view.table.names.get(view.best.name, view.best.name)
    what = "a merge that the search found" if view.best.label is None else f"the baseline {name}"
    which = "The winner" if winner else "The best so far"
    lead = f"{which} is candidate {view.best.number}, {what}."
    parts = ["<h2>What was found?</h2>", paragraph(lead)]
    if view.recipe is not None:
        methods = sorted({layer.method for layer in view.recipe.every_layer()})
        parts.append(paragraph(f"Merge method: {', '.join(methods)}; dtype {view.recipe.dtype}."))
        if view.config.space.kind != "parameters":
            parts += ["<h3>Path through the layers</h3>", code(describe(view.recipe))]
    if "genome" in view.best.origin:
        bars = genome_bars(view.gene_labels, view.best.origin["genome"])
        parts.append(picture("genes", bars, "The genes of the best candidate."))
    if view.recipe is not None:
        parts.append(folded("the whole recipe", code(view.recipe.to_yaml())))
    return parts
