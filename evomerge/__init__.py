"""Evolutionary merge search for language models.

    import evomerge

    run = evomerge.search("search.yaml", run="runs/first")
    run.standings
    run.export("merged-model")

`import evomerge` itself imports nothing heavy: each name is imported at its first use.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomerge.api.models import compare, evaluate, merge
    from evomerge.api.run import (
        Run,
        plot_front,
        plot_history,
        plot_results,
        plot_standings,
        results,
    )
    from evomerge.api.search import resume, search
    from evomerge.api.study import Study
    from evomerge.api.validate import documents, validate
    from evomerge.errors import EvomergeError
    from evomerge.recipe import Layer, Recipe, Source

__version__ = version("evomerge")

__all__ = [
    "EvomergeError",
    "Layer",
    "Recipe",
    "Run",
    "Source",
    "Study",
    "__version__",
    "compare",
    "documents",
    "evaluate",
    "merge",
    "plot_front",
    "plot_history",
    "plot_results",
    "plot_standings",
    "results",
    "resume",
    "search",
    "validate",
]

_MODULES = ("errors", "recipe", "api.run", "api.models", "api.search", "api.study", "api.validate")
"""The modules in which public names are, from the lightest on."""


def __getattr__(name: str) -> Any:
    for module in _MODULES if name in __all__ else ():
        if hasattr(home := import_module(f"evomerge.{module}"), name):
            return getattr(home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
