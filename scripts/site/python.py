"""The pages of Python: signatures and docstrings, read from the code without importing it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

import griffe

import evomerge
from scripts.site.places import ROOT

PUBLIC = {
    "Searches": (
        *("api.search.search", "api.search.resume", "api.validate.validate"),
        *("api.validate.documents", "api.run.Run", "run.history.Candidate"),
        *("api.run.results", "api.models.compare"),
    ),
    "Scores from your own code": ("api.study.Study", "api.study.Asked"),
    "Single models": ("api.models.merge", "api.models.evaluate"),
    "Plots": (
        *("api.run.plot_history", "api.run.plot_standings", "api.run.plot_front"),
        "api.run.plot_results",
    ),
    "Recipes": ("recipe.Recipe", "recipe.Layer", "recipe.Source"),
    "Errors": ("errors.EvomergeError",),
}
"""Heading -> what `evomerge` offers, and what that returns, in the order of the page."""

EXTENDING = {
    "Merge methods": tuple(
        f"merging.methods.method.{name}"
        for name in ("method", "knob", "flag", "Knob", "Operands", "Method")
    ),
    "Optimizers": (
        *("optimize.base.BaseOptimizer", "optimize.base.Cube"),
        *("optimize.protocol.Optimizer", "optimize.protocol.Setting", "space.protocol.Gene"),
    ),
    "Objectives": (
        *("evaluation.tasks.functions", "evaluation.tasks.rows.RowsObjective"),
        *("evaluation.tasks.objective.Objective", "evaluation.tasks.objective.Merges"),
    ),
    "Strategies": ("strategy.kinds.StrategyKind",),
    "Executors": (
        *("config.executor.ExecutorKind", "config.executor.Workers"),
        *("execute.protocol.Executor", "execute.protocol.Job"),
    ),
    "Laws for your tests": (
        "testing.methods.check_method",
        "testing.optimizers.check_optimizer",
        "testing.optimizers.check_space",
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

The other groups are `evomerge.optimizers`, `evomerge.objectives`, `evomerge.strategies` and
`evomerge.executors`. A search file then names `my_method` like a method of evomerge, and
`evomerge list` lists it.
"""

_EMPTY = {"dict": "{}"}
"""What makes a default -> the default."""

_WIDTH = 46
"""Characters of a signature in one line, at most: those of a phone."""


def python() -> str:
    """Return the page of what `import evomerge` offers."""
    return _page(_PYTHON, PUBLIC)


def extending() -> str:
    """Return the page of the interfaces that other packages implement."""
    return _page(_EXTENDING, EXTENDING)


def _page(start: str, sections: Mapping[str, Iterable[str]]) -> str:
    parts = [start]
    for title, paths in sections.items():
        parts.append(f"## {title}\n")
        for path in paths:
            parts += _object(path)
    return "\n".join(parts)


def _object(path: str) -> Iterator[str]:
    """Yield what an object is, and what its public members are if it is a class."""
    if (ROOT / "evomerge" / f"{path.replace('.', '/')}.py").exists():
        yield f"### `{path.rpartition('.')[2]}`\n\nThe module `evomerge.{path}`.\n"
        yield from _documented(_module(path))
        return
    home, _, name = path.rpartition(".")
    found = _module(home)[name]
    public = name in evomerge.__all__
    home = home.partition(".")[0] if home.startswith("testing.") else home
    yield f"### `{f'evomerge.{name}' if public else name}`\n"
    if not public:
        yield f"`from evomerge.{home} import {name}`\n"
    if found.is_function or "__init__" in found.members:
        yield _signature(name, found if found.is_function else found["__init__"])
    yield from _documented(found)
    if not found.is_class:
        return
    members = {
        key: item
        for key, item in found.members.items()
        if not key.startswith("_") and item.docstring
    }
    values = [item for item in members.values() if not item.is_function]
    if values:
        yield "Attributes:\n"
        yield from (f"- **`{item.name}`** ({_facts(item)}): {_text(item)}" for item in values)
        yield ""
    for key, item in members.items():
        if item.is_function:
            yield f"#### `{name}.{key}`\n"
            yield _signature(key, item)
            yield from _documented(item)


def _signature(name: str, function: griffe.Object | griffe.Alias) -> str:
    """Return a block with the signature of a function, without `self`."""
    assert isinstance(function, griffe.Function)
    whole = str(function.signature(name=name)).removesuffix(" -> None")
    whole = re.sub(r"\((self|cls)(, )?", "(", whole, count=1)
    if len(whole) > _WIDTH:
        inside, end = whole[len(name) + 1 : (close := whole.rindex(")"))], whole[close:]
        arguments = re.split(r", (?![^\[]*\])", inside)
        whole = "\n".join([f"{name}(", *(f"    {item}," for item in arguments), end])
    return f"```python\n{whole}\n```\n"


def _documented(found: griffe.Object | griffe.Alias) -> Iterator[str]:
    """Yield the paragraphs of a docstring, and lists of its sections."""
    assert found.docstring is not None, f"{found.path} has no docstring"
    for section in found.docstring.parse("google"):
        if isinstance(section, griffe.DocstringSectionText):
            yield f"{re.sub('::$', ':', section.value, flags=re.MULTILINE)}\n"
        elif isinstance(section, griffe.DocstringSectionParameters):
            yield from (f"- **`{item.name}`**: {item.description}" for item in section.value)
            yield ""
        elif isinstance(section, griffe.DocstringSectionAttributes):
            for item in section.value:
                field = found.members.get(item.name)
                facts = f" ({_facts(field)})" if field and _facts(field) else ""
                yield f"- **`{item.name}`**{facts}: {item.description}"
            yield ""
        elif isinstance(section, griffe.DocstringSectionReturns):
            yield from (f"Returns: {item.description}\n" for item in section.value)
        elif isinstance(section, griffe.DocstringSectionRaises):
            yield "Raises:\n"
            yield from (f"- `{item.annotation}`: {item.description}" for item in section.value)
            yield ""
        else:
            raise ValueError(f"{found.path}: say how {section.kind} is shown")


def _facts(value: griffe.Object | griffe.Alias) -> str:
    """Return the type of an attribute, and its default."""
    assert isinstance(value, griffe.Attribute)
    facts = [f"`{value.annotation}`"] if value.annotation else []
    default = re.sub(r"field\(default(?:_factory)?=([^,]+).*\)", r"\1", str(value.value))
    return "; ".join([*facts, f"default `{_EMPTY.get(default, default)}`"][: 1 + bool(value.value)])


def _text(value: griffe.Object | griffe.Alias) -> str:
    assert value.docstring is not None
    return "\n".join(f"    {line}".rstrip() for line in value.docstring.value.splitlines()).strip()


@cache
def _module(path: str) -> griffe.Module:
    file = ROOT / "evomerge" / f"{path.replace('.', '/')}.py"
    return griffe.visit(path, filepath=file, code=file.read_text(encoding="utf-8"))
