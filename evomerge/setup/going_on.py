"""`search --resume` where the run has begun: whether the search file is still that of the run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.config.schema import SearchConfig, parse
from evomerge.errors import RunFolderError
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.history import History
from evomerge.setup.parents import absolute_config
from evomerge.setup.runs import folder_of
from evomerge.setup.workers import MOVES


def going_on(
    path: Path, data: Mapping[str, Any], source: Path
) -> tuple[dict[str, float], list[str]]:
    """Return what a search file changes in a run that has begun: its budget and its workers.

    It is compared with the file that the user wrote when the run began: what was resolved then
    cannot hide that a key was removed.

    Args:
        path: folder of the run.
        data: content of the search file; `source` is its path, from which relative ones start.

    Returns:
        bounds of the budget that differ by name, and overrides `executor.KEY=VALUE`.

    Raises:
        ConfigError: the search file has a mistake.
        RunFolderError: it is that of another search.
    """
    run = RunFolder(path)
    own = run.path / CONFIG
    asked = absolute_config(parse(data, str(source)), folder_of(source))
    wrote = absolute_config(parse(run.written(), str(own)), folder_of(own))
    if changed := [*_different(_course(asked), _course(wrote))]:
        raise RunFolderError(
            f"{path} holds another search than {source}: it differs in `{'`, `'.join(changed)}`; "
            "name another folder, or put the search file back as it was."
        )
    budget, later = wrote.budget.model_dump(), History(run.events()).budget
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
    plain = config.model_dump(mode="json", exclude={"budget"})
    plain["executor"] = {
        key: value for key, value in plain["executor"].items() if f"executor.{key}" not in MOVES
    }
    return plain


def _different(now: Any, then: Any, key: str = "") -> Iterator[str]:
    """Yield the keys, such as `evaluation.fewshot`, whose values differ."""
    if isinstance(now, dict) and isinstance(then, dict):
        for name in {**now, **then}:
            yield from _different(now.get(name), then.get(name), f"{key}.{name}" if key else name)
    elif now != then:
        yield key
