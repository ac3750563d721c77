"""Objective functions that are passed as Python functions, and how a run names them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from evomerge.errors import ConfigError


def with_named_functions(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a search file in which every Python function is replaced by `module:function`.

    So `resume` finds it again. An objective may be the function alone, or a mapping whose `task` is
    the function. If the function has one metric, the mapping need not name it. A ConfigError says
    that the function cannot be found by its name, or not by the processes that need it.
    """
    objectives, section = config.get("objectives"), config.get("executor")
    if not isinstance(objectives, list):  # left to the check
        return dict(config)
    executor = section.get("kind", "inline") if isinstance(section, Mapping) else "inline"
    named = []
    for item in objectives:
        task = item.get("task") if isinstance(item, Mapping) else item
        if callable(task):
            name = _name(task)
            if name.startswith("__main__:") and executor != "inline":
                raise ConfigError(
                    f"The objective function {name.partition(':')[2]!r} is defined in this script "
                    f"or notebook, but `executor.kind` is {executor!r}, whose processes "
                    "cannot import it; put the function into a module."
                )
            metrics = list(getattr(task, "metrics", ("score",)))
            only = {"metric": metrics[0]} if len(metrics) == 1 else {}
            item = {**only, **(item if isinstance(item, Mapping) else {}), "task": name}
        named.append(item)
    return {**config, "objectives": named}


def _name(function: Callable[..., Any]) -> str:
    """Return `module:function`, after checking that this names the function."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if getattr(sys.modules.get(module), name, None) is not function:
        raise ConfigError(
            f"The objective {name or function!r} is not a function at the top level of a module, "
            "script or notebook, so `resume` could not find it again; define it there with `def`."
        )
    return f"{module}:{name}"
