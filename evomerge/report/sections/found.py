"""What was found? The recipe of the best candidate: its genes, or its path through the layers."""

from __future__ import annotations

from evomerge.recipe import Recipe
from evomerge.report.markup import code, folded, paragraph, picture
from evomerge.report.names import short_names
from evomerge.report.view import View
from evomerge.space.paths.path import describe

_CAPTIONS = {
    "recipe": "What comes from which parent, at which depth.",
    "genes": "The genes of the best candidate.",
}


def found(view: View) -> list[str]:
    """Return the section; empty if there is no candidate yet."""
    if view.best is None:
        return []
    winner = view.history.winner is view.best
    name = view.table.names.get(view.best.name, view.best.name)
    what = "a merge that the search found" if view.best.label is None else f"the baseline {name}"
    which = "The winner" if winner else "The best so far"
    if view.table.has_front:
        which = "The knee of the front"
    lead = f"{which} is candidate {view.best.number}, {what}."
    parts = ["<h2>What was found?</h2>", paragraph(lead)]
    if view.recipe is not None:
        if view.best.label not in view.config.parents:
            methods = ", ".join(sorted({layer.method for layer in view.recipe.every_layer()}))
            parts.append(paragraph(f"Merge method: {methods}; dtype {view.recipe.dtype}."))
        if view.config.space.most_parents is not None:
            parts.append(paragraph(_members(view, view.recipe)))
        if view.config.space.kind != "parameters":
            parts += ["<h3>Path through the layers</h3>", code(_path(view, view.recipe))]
    for name, caption in _CAPTIONS.items():
        if name in view.figures:
            parts.append(picture(name, view.figures[name], caption))
    if view.recipe is not None:
        parts.append(folded("the whole recipe", code(view.recipe.to_yaml())))
        if (reason := view.run.why_not_in_mergekit) is not None:
            parts.append(paragraph(f"There is no best.mergekit.yaml: {reason}"))
    return parts


def _members(view: View, recipe: Recipe) -> str:
    """Return a sentence with the parents of the pool that the recipe merges."""
    merged = {source.parent for layer in recipe.every_layer() for source in layer.sources}
    pool = [parent for parent in view.config.parents if parent != view.config.base]
    names = short_names(view.config.parents)
    listed = ", ".join(names[parent] for parent in pool if parent in merged)
    return f"Of the {len(pool)} parents, it merges {len(merged & set(pool))}: {listed}."


def _path(view: View, recipe: Recipe) -> str:
    """Return the path as text; local parents have the names of their folders."""
    text, names = describe(recipe), short_names(view.config.parents)
    for parent in sorted(names, key=len, reverse=True):
        text = text.replace(f"= {parent}", f"= {names[parent]}")
    return text
