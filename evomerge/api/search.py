"""Starting and continuing a search from Python."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from evomerge.api.objectives import with_named_functions
from evomerge.api.progress import ProgressBar
from evomerge.api.run import Run
from evomerge.errors import ConfigError
from evomerge.run.folder import RunFolder
from evomerge.run.logbook import Follower
from evomerge.run.writable import check_run_folder


def search(
    config: str | PathLike[str] | Mapping[str, Any],
    run: str | PathLike[str],
    *,
    candidates: int | None = None,
    progress: bool = True,
    followers: Sequence[Follower] = (),
    allow_pickle: bool = False,
) -> Run:
    """Start a search, wait for its end and return its run.

    If the search is interrupted, `resume` goes on; nothing is lost.

    Args:
        config: path of a search file, or its content as a mapping. In a mapping the `task` of an
            objective may be a Python function: it gets the model, the tokenizer and a list of
            document ids, and returns one score for each of them; its attribute `documents` is the
            number of documents that it has.
        run: folder of the run, which must not exist.
        candidates: largest number of candidates, in place of `budget.candidates`.
        progress: whether to show a progress bar, in a notebook too.
        followers: functions that are called with the history and the event after every event. One
            that raises is not called again, and the search goes on.
        allow_pickle: accept parents with pickled weights.

    Raises:
        InputError: the search file, a parent or the folder is wrong; nothing was computed.
        SearchError: the search cannot go on.
    """
    from evomerge.config.schema import load, override, parse
    from evomerge.setup.check import freeze
    from evomerge.setup.preflight import warnings as warnings_of
    from evomerge.setup.runs import prepare

    folder = Path(run)
    RunFolder.check_free(folder)
    overrides = [f"budget.candidates={candidates}"] if candidates else []
    if isinstance(config, Mapping):
        data = with_named_functions(config)
        for item in overrides:
            override(data, item)
        parsed, relative_to = parse(data, "config"), Path.cwd()
    else:
        parsed, relative_to = load(Path(config), overrides), Path(config).parent
    if parsed.frozen is not None:
        raise ConfigError("`config` was written by a run; continue that run with `resume`.")
    problem = prepare(parsed, relative_to, allow_pickle=allow_pickle)
    for note in warnings_of(problem, allow_benchmarks=False):
        warnings.warn(note, stacklevel=2)
    return _run(RunFolder.create(folder, freeze(problem)), problem, {}, progress, followers)


def resume(
    run: str | PathLike[str] | Run,
    *,
    candidates: int | None = None,
    hours: float | None = None,
    progress: bool = True,
    followers: Sequence[Follower] = (),
    **executor: Any,
) -> Run:
    """Continue a search from where it was, wait for its end and return its run.

    Args:
        run: the run, or its folder.
        candidates: new largest number of candidates, baselines included.
        hours: new largest number of working hours, over all sessions.
        progress: whether to show a progress bar.
        followers: see `search`.
        **executor: keys of the section `executor` for this session, for example
            `kind="processes", workers=4`.

    Raises:
        InputError: the folder is not a run, a parent has changed, or a bound has been passed.
        SearchError: the search cannot go on.
    """
    from evomerge.setup.runs import check_budget, continued

    folder = RunFolder(run.folder if isinstance(run, Run) else Path(run))
    bounds = {"candidates": candidates, "hours": hours}
    given = {name: value for name, value in bounds.items() if value is not None}
    check_run_folder(folder.path)
    check_budget(folder, given)
    moves = [f"executor.{key}={json.dumps(value)}" for key, value in executor.items()]
    return _run(folder, continued(folder, moves), given, progress, followers)


def _run(
    folder: RunFolder,
    problem: Any,
    bounds: Mapping[str, float],
    progress: bool,
    followers: Sequence[Follower],
) -> Run:
    from evomerge.setup.search import run_search

    if not progress:
        run_search(problem, folder, bounds, followers)
        return Run(folder.path)
    total = bounds.get("candidates") or problem.config.budget.candidates
    with ProgressBar(int(total) if total else None) as bar:
        run_search(problem, folder, bounds, [bar.observe, *followers])
    return Run(folder.path)
