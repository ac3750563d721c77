"""The pages of the Python API: directives of mkdocstrings, which shows docstrings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

PUBLIC = {
    "Searches": ("search", "resume", "results", "validate", "compare", "Run"),
    "Scores from your own code": ("Study", "api.study.Asked"),
    "Single models": ("merge", "evaluate"),
    "Plots": ("plot_history", "plot_standings", "plot_front"),
    "Recipes": ("Recipe", "Layer", "Source"),
    "Errors": ("EvomergeError",),
}
"""Heading -> what `evomerge` offers, and what that returns, in the order of the page."""

EXTENDING = {
    "Merge methods": tuple(
        f"merging.methods.method.{name}"
        for name in ("method", "knob", "Operands", "Knob", "Method")
    ),
    "Optimizers": ("optimize.protocol.Optimizer",),
    "Objectives": (
        "evaluation.tasks.functions",
        "evaluation.tasks.objective",
        "evaluation.tasks.rows",
    ),
    "Executors": ("execute.protocol.Executor", "execute.protocol.Job"),
    "Laws for your tests": (
        "testing.check_method",
        "testing.check_optimizer",
        "testing.check_space",
    ),
}
"""Heading -> what a package of your own implements or calls."""

_PYTHON = """# Python

What `import evomerge` offers. The import itself loads nothing heavy: torch and lm-eval are loaded
by the first function that needs them.
"""

_EXTENDING = """# Interfaces for your own code

A package of your own adds a merge method, an optimizer or an objective by an entry point
in its `pyproject.toml`:

```toml
[project.entry-points."evomerge.methods"]
my_method = "my_package.merging:MY_METHOD"
```

The other groups are `evomerge.optimizers` and `evomerge.objectives`. A search file then names
`my_method` like a method of evomerge, and `evomerge list` lists it.
"""


def python() -> str:
    """Return the page of what `import evomerge` offers."""
    return _page(_PYTHON, PUBLIC)


def extending() -> str:
    """Return the page of the interfaces that other packages implement."""
    return _page(_EXTENDING, EXTENDING)


def _page(start: str, sections: Mapping[str, Iterable[str]]) -> str:
    parts = [start]
    for title, names in sections.items():
        parts.append(f"## {title}\n")
        parts += [f"::: evomerge.{name}\n" for name in names]
    return "\n".join(parts)
