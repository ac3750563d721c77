"""The page of what a search file can name: methods, optimizers, spaces and embedded parents."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from typer.testing import CliRunner

from evomerge.cli.commands import app
from evomerge.merging.methods import METHODS
from evomerge.optimize import OPTIMIZERS
from evomerge.registry import Registry
from evomerge.strategy.kinds import STRATEGIES

_START = """# Methods, optimizers, spaces

What `evomerge list` prints. [Merge methods](../methods.md) explains how the methods differ from
mergekit's; other packages can add methods and optimizers of their own
([how](../how-to/own-method.md)).
"""


_REGISTRIES: Mapping[str, tuple[Registry[Any], ...]] = {
    "methods": (METHODS,),
    "optimizers": (OPTIMIZERS, STRATEGIES),
}


def rows(what: str) -> list[dict[str, object]]:
    """Return what `evomerge list WHAT --json` prints, without what other packages have added.

    The page is committed, so it must not depend on what is installed where it is written.
    """
    listed = CliRunner().invoke(app, ["list", what, "--json"], catch_exceptions=False)
    registries = _REGISTRIES.get(what, ())
    added = {name for registry in registries for name in registry.names()}
    added -= {name for registry in registries for name in registry.builtin}
    return [row for row in json.loads(listed.stdout) if row["name"] not in added]


def catalogue() -> str:
    """Return the page."""
    return "\n".join(
        [
            _START,
            "## Merge methods\n",
            *map(_method, rows("methods")),
            "## Optimizers\n",
            *_table(("optimizer.name", "what it is"), _pairs("optimizers")),
            "## Spaces\n",
            *_table(("space.kind", "what is searched"), _pairs("spaces")),
            "## Embedded parents\n",
            *_table(
                ("parent", "architecture", "layers", "parameters"),
                ([f"`{row.pop('name')}`", *row.values()] for row in rows("parents")),
            ),
        ]
    )


def _method(row: dict[str, object]) -> str:
    """Return the section of one method, with a table of its knobs."""
    knobs = row["knobs"]
    assert isinstance(knobs, list)
    facts = [f"parents: {row['parents']}", f"base: {row['base']}"]
    paper = [str(row["paper"])] if row["paper"] else []
    table = _table(("knob", "one number for", "range", "default", "gradient"), map(_knob, knobs))
    return "\n".join(
        [
            f"### `{row['name']}`\n",
            f"{str(row['title']).capitalize()}.\n",
            f"{' · '.join([*facts, *paper])}\n",
            *(table if knobs else ["It has no knobs.\n"]),
        ]
    )


_GRADIENTS = {
    "gradient": "by two merges",
    "smoothed gradient": "smoothed",
    "exact gradient": "exact",
}


def _knob(text: str) -> list[str]:
    """Return the cells of `name (scope, range, default)`, perhaps with `gradient` at the end.

    The last cell says how its gradient is found.
    """
    name, _, rest = text.removesuffix(")").partition(" (")
    scope, bounds, default, *gradient = rest.split(", ")
    low, high = bounds.split("..")
    scope = "the merge" if scope == "merge" else scope
    return [
        f"`{name}`",
        scope,
        low if low == high else f"{low} to {high}",
        default,
        _GRADIENTS[gradient[0]] if gradient else "",
    ]


def _pairs(what: str) -> Iterable[list[object]]:
    return ([f"`{row['name']}`", row["about"]] for row in rows(what))


def _table(head: tuple[str, ...], body: Iterable[Iterable[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *body]
    return [*(f"| {' | '.join(map(str, line))} |" for line in lines), ""]
