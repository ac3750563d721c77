"""The page of the commands, from their functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from evomerge.cli.commands import app

_START = """# Commands

`evomerge COMMAND --help` prints the same.

"""

_END = """## Exit codes

| code | meaning |
| --- | --- |
| 0 | the command did what it was asked to do |
| 1 | it failed; the message says whether `evomerge resume` can go on |
| 2 | wrong input: an option, a file, a folder; nothing was computed |
| 130 | interrupted by Ctrl-C; `evomerge resume` goes on |
| 143 | ended by SIGTERM, such as a job that is preempted; `evomerge resume` goes on |
"""

_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
"""Type of a value -> what stands for it, unless the option says that itself."""


def commands() -> str:
    """Return the page: each command with its arguments and options."""
    assert app.registered_callback is not None
    sections = [("evomerge", app.registered_callback.callback)]
    for info in app.registered_commands:
        assert info.callback is not None
        name = info.name or info.callback.__name__
        sections.append((f"evomerge {name}", info.callback))
    return _START + "".join(_section(name, body) for name, body in sections if body) + _END


def _section(name: str, function: Callable[..., Any]) -> str:
    rows = list(_rows(function))
    words = [row[0] for row in rows if not row[0].startswith("-")]
    options = ["[OPTIONS]"] if len(words) < len(rows) else []
    usage = " ".join([name, *options, *words, *(["COMMAND"] if name == "evomerge" else [])])
    lines = [f"- `{shown}`{about and f': {about}'}\n" for shown, about in rows]
    about = f"## `{name}`\n\n{inspect.getdoc(function)}\n\n```\n{usage}\n```\n\n"
    return about + "".join([*lines, "\n"] if lines else [])


def _rows(function: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    """Yield what is typed for each argument and option, and what it is."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = get_args(hints[name]) or (hints[name], typer.Argument())
        if info.hidden:
            continue
        assert isinstance(info, ArgumentInfo | OptionInfo)
        members = get_args(kind) if isinstance(kind, UnionType) else (kind,)
        of = next(item for item in members if item is not type(None))
        shown, default = _shown(name, of, info, parameter.default), parameter.default
        facts = [info.help] if info.help else []
        if isinstance(of, type) and issubclass(of, Enum):
            facts.append(f"one of {', '.join(f'`{item.value}`' for item in of)}")
        if default is inspect.Parameter.empty and shown.startswith("-"):
            facts.append("required")
        elif default not in (None, False, True, inspect.Parameter.empty):
            facts.append(f"default `{default}`")
        yield shown, "; ".join(facts)


def _shown(name: str, kind: Any, info: ArgumentInfo | OptionInfo, default: object) -> str:
    """Return what is typed, such as `--candidates N`."""
    metavar = info.metavar or _METAVARS.get(kind, name.upper())
    if isinstance(info, ArgumentInfo):
        return metavar if default is inspect.Parameter.empty else f"[{metavar}]"
    # The first name of an option in `Annotated` is where that of a default was.
    declared = [item for item in (info.default, *(info.param_decls or ())) if item is not ...]
    names = ", ".join(map(str, declared)) or f"--{name.replace('_', '-')}"
    return names if kind is bool else f"{names} {metavar}"
