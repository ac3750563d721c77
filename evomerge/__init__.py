"""Evolutionary merge search for language models.

    import evomerge

    run = evomerge.search("search.yaml", run="runs/first")
    run.standings
    run.export("merged-model")

`import evomerge` itself imports nothing heavy: each name is imported at its first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomerge.api.compare import compare
    from evomerge.api.models import (
        evaluate,
        merge,
    )
    from evomerge.api.run import (
        Run,
        plot_front,
        plot_genes,
        plot_history,
        plot_standings,
        results,
    )
    from evomerge.api.search import resume, search
    from evomerge.api.study import Study
    from evomerge.api.validate import validate
    from evomerge.errors import EvomergeError
    from evomerge.recipe import Layer, Recipe, Source

__version__ = version("evomerge")

_PLACES = {
    "EvomergeError": "evomerge.errors",
    "Layer": "evomerge.recipe",
    "Recipe": "evomerge.recipe",
    "Run": "evomerge.api.run",
    "Source": "evomerge.recipe",
    "Study": "evomerge.api.study",
    "compare": "evomerge.api.compare",
    "evaluate": "evomerge.api.models",
    "merge": "evomerge.api.models",
    "plot_front": "evomerge.api.run",
    "plot_genes": "evomerge.api.run",
    "plot_history": "evomerge.api.run",
    "plot_standings": "evomerge.api.run",
    "results": "evomerge.api.run",
    "resume": "evomerge.api.search",
    "search": "evomerge.api.search",
    "validate": "evomerge.api.validate",
}
"""Public name -> the module that it is in."""

__all__ = [
    "EvomergeError",
    "Layer",
    "Recipe",
    "Run",
    "Source",
    "Study",
    "__version__",
    "compare",
    "evaluate",
    "merge",
    "plot_front",
    "plot_genes",
    "plot_history",
    "plot_standings",
    "results",
    "resume",
    "search",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
