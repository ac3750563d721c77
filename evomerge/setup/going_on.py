"""`search --resume` where the run has begun: whether the search file is still that of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.config.schema import SearchConfig, parse
from evomerge.errors import RunFolderError
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.setup.parents import absolute_config
from evomerge.setup.workers import MOVES


def going_on(
    path: Path, data: Mapping[str, Any], source: Path
) -> tuple[dict[str, float], list[str]]:
    """Return what a search file changes in a run that has begun: its budget and its workers.

    Args:
        path: folder of the run.
        data: content of the search file; `source` is its path, from which relative ones start.

    Returns:
        bounds of the budget that differ by name, and overrides `executor.KEY=VALUE`.

    Raises:
        ConfigError: the search file has a mistake.
        RunFolderError: it is that of another search.
    """
    asked = absolute_config(parse(data, str(source)), source.absolute().parent)
    run = RunFolder(path)
    began = run.search_file()
    now, then = _course(asked), _course(began)
    if changed := [name for name in now if not _is_same(now[name], then[name])]:
        raise RunFolderError(
            f"{path} holds another search than {source}: it differs in `{'`, `'.join(changed)}`; "
            "name another folder, or put the search file back as it was."
        )
    budget, later = began.budget.model_dump(), History(run.events()).budget
    bounds = {
        name: value
        for name, value in asked.budget.model_dump().items()
        if value is not None and value not in (budget[name], later.get(name))
    }
    workers = asked.executor.model_dump(mode="json")
    moves = [f"{move}={json.dumps(workers[move.removeprefix('executor.')])}" for move in MOVES]
    return bounds, moves


def _course(config: SearchConfig) -> dict[str, Any]:
    """Return the sections that the course of a search depends on, as plain values."""
    plain = config.model_dump(mode="json", exclude={"budget", "frozen"})
    plain["executor"] = {
        key: value for key, value in plain["executor"].items() if f"executor.{key}" not in MOVES
    }
    return plain


def _is_same(now: Any, then: Any) -> bool:
    """Whether a value is that of a run, which has resolved `auto`, `null`, filters of metrics."""
    if now is None or now == "auto":
        return True
    if isinstance(now, dict) and isinstance(then, dict):
        return now.keys() == then.keys() and all(_is_same(now[k], then[k]) for k in now)
    if isinstance(now, list) and isinstance(then, list):
        return len(now) == len(then) and all(map(_is_same, now, then))
    return bool(now == then) or (isinstance(then, str) and then.startswith(f"{now},"))
