"""Starting and continuing a search: from Python, and what the command line shares with it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tqdm.auto import tqdm

from evomerge.api.objectives import with_named_functions
from evomerge.api.run import Run
from evomerge.errors import ConfigError, RunFolderError
from evomerge.parsing.values import path_of, shown
from evomerge.run.atomic import check_writable
from evomerge.run.folder import RunFolder, is_begun
from evomerge.run.history import Candidate, History
from evomerge.run.journal import Event
from evomerge.run.logbook import Follower
from evomerge.searching.ranking import Ranking
from evomerge.trust.consent import Permissions

if TYPE_CHECKING:
    from evomerge.setup.checked import CheckedSearch

Runner: TypeAlias = "Callable[[RunFolder, CheckedSearch, Mapping[str, float]], None]"
"""Runs a search to its end; the bounds of the budget that are new are by name."""


def search(
    config: str | PathLike[str] | Mapping[str, Any],
    run: str | PathLike[str],
    *,
    resume: bool = False,
    candidates: int | None = None,
    progress: bool = True,
    followers: Sequence[Follower] = (),
    allow_code: bool = False,
    trust_code: bool = False,
) -> Run:
    """Start a search, wait for its end and return its run.

    If it is interrupted, `resume` goes on; nothing is lost.

    Args:
        config: path of a search file, or its content as a mapping. In a mapping the `task` of an
            objective may be a Python function: it gets the model, the tokenizer and a list of
            document ids, and returns one score for each of them; its attribute `documents` is the
            number of documents that it has.
        run: folder of the run, which must not exist without `resume`.
        resume: if the folder holds a run, go on with it, so that a cell of a notebook can be run
            again. It must be the same search; only `budget` and the workers in `executor` may
            differ, and count from now on.
        candidates: largest number of candidates, in place of `budget.candidates`.
        progress: whether to show a progress bar, in a notebook too.
        followers: functions that are called with the history and the event after every event. One
            that raises is not called again, and the search goes on.
        allow_code: accept tasks that run code which models write (`unsafe_code` in lm-eval:
            HumanEval, MBPP); it runs in processes with limits.
        trust_code: run code that the search file names and that is in no installed package:
            modules of functions, and task YAML with functions. Functions that are passed as Python
            objects need no consent.

    Raises:
        InputError: the search file, a parent or the folder is wrong; nothing was computed.
        SearchError: the search cannot go on.
    """
    folder = path_of(run, "run")
    data, source = content_of(config)
    allowed = Permissions(allow_code, trust_code)
    runner = with_bar(progress, followers)
    start(data, source, folder, candidates, allowed, warn, runner, resume=resume)
    return Run(folder)


def warn(checked: CheckedSearch) -> None:
    """Warn of what a person should know of a checked search before it runs."""
    from evomerge.setup.preflight import warnings as warnings_of

    for note in dict.fromkeys(warnings_of(checked, allow_benchmarks=False)):
        warnings.warn(note, stacklevel=4)


def content_of(
    config: str | PathLike[str] | Mapping[str, Any],
) -> tuple[Mapping[str, Any], Path]:
    """Return the content of a search file, and the path that relative paths start from.

    ConfigError: it is no path and no mapping, the file cannot be read, or a function cannot be
    found again by its name.
    """
    from evomerge.config.schema import read

    if isinstance(config, Mapping):
        return with_named_functions(config), Path("config")
    if not isinstance(config, (str, PathLike)):
        raise ConfigError(
            f"config is {shown(config)}; give the path of a search file, or its content as a "
            "mapping."
        )
    return read(Path(config)), Path(config)


def resume(
    run: str | PathLike[str] | Run,
    *,
    candidates: int | None = None,
    hours: float | None = None,
    patience: int | None = None,
    target: float | None = None,
    progress: bool = True,
    followers: Sequence[Follower] = (),
    allow_code: bool = False,
    trust_code: bool = False,
    **executor: Any,
) -> Run:
    """Continue a search from where it was, wait for its end and return its run.

    `candidates`, `hours`, `patience` and `target` are new bounds, as in the section `budget`. The
    other arguments are as of `search`; what was allowed when the run began does not count.

    Args:
        run: the run, or its folder.
        **executor: keys of the section `executor` for this session, for example
            `kind="processes", workers=4`.

    Raises:
        InputError: the folder is not a run, a parent has changed, or a bound has been reached.
        SearchError: the search cannot go on.
    """
    path = run.folder if isinstance(run, Run) else path_of(run, "run")
    bounds = {"candidates": candidates, "hours": hours, "patience": patience, "target": target}
    moves = [f"executor.{key}={json.dumps(value)}" for key, value in executor.items()]
    allowed = Permissions(allow_code, trust_code)
    go_on(path, bounds, moves, allowed, with_bar(progress, followers))
    return Run(path)


def start(
    data: Mapping[str, Any],
    source: Path,
    folder: Path,
    candidates: int | None,
    allowed: Permissions,
    warn: Callable[[CheckedSearch], None],
    run: Runner,
    *,
    resume: bool = False,
) -> None:
    """Check a search, warn, create the run in a free folder and run it; see `search`."""
    from evomerge.config.schema import override, parse
    from evomerge.setup.runs import begin, folder_of, going_on, prepare

    own = deepcopy(dict(data))  # the caller's mapping stays as it is
    if candidates is not None:
        override(own, f"budget.candidates={candidates}")
    if resume and is_begun(folder):
        _continue(RunFolder(folder), *going_on(folder, own, source), allowed, run)
        return
    RunFolder.check_free(folder)
    wrote = parse(own, str(source))
    checked = prepare(wrote, folder_of(source), allowed)
    warn(checked)
    run(begin(folder, checked, wrote, source), checked, {})


def go_on(
    path: Path,
    bounds: Mapping[str, float | None],
    moves: Sequence[str],
    allowed: Permissions,
    run: Runner,
) -> None:
    """Continue a run; a bound that is None is as before, `moves` are `executor.KEY=VALUE`."""
    from evomerge.setup.runs import check_budget

    folder = RunFolder(path)
    given = {name: value for name, value in bounds.items() if value is not None}
    check_budget(folder, given)
    _continue(folder, given, moves, allowed, run)


def _continue(
    folder: RunFolder,
    bounds: Mapping[str, float],
    moves: Sequence[str],
    allowed: Permissions,
    run: Runner,
) -> None:
    from evomerge.setup.runs import continued

    fix = "make it writable, or continue a copy of it"
    what = f"{folder.path} cannot be continued"
    check_writable(folder.path / "lock", what, fix, RunFolderError)
    run(folder, continued(folder, moves, allowed), bounds)


def with_bar(progress: bool, followers: Sequence[Follower]) -> Runner:
    """Return what runs a search, with a progress bar that is a widget in a notebook."""
    from evomerge.setup.search import run_search

    def run(folder: RunFolder, checked: CheckedSearch, bounds: Mapping[str, float]) -> None:
        total = bounds.get("candidates") or checked.config.budget.candidates
        with tqdm(
            total=total and int(total), unit="candidate", desc="searching", disable=not progress
        ) as bar:
            show = [partial(_show, bar, checked.ranking, [])] if progress else []
            run_search(checked, folder, bounds, [*show, *followers])

    return run


def _show(
    bar: tqdm[Any], ranking: Ranking, leaders: list[Candidate], history: History, event: Event
) -> None:
    """Show on a bar how many candidates are scored, and the best so far, which `leaders` keeps."""
    if event["event"] == "tell":
        from evomerge.report.progress import points

        new = history.candidates if not leaders else [history.candidates[event["candidate"]]]
        leaders[:] = ranking.incumbents([*leaders, *new])
        if ranking.has_front:
            bar.set_postfix_str(f"{len(leaders)} on the front", refresh=False)
        elif leaders:
            bar.set_postfix_str(f"best {points(leaders[0], ranking)}", refresh=False)
        bar.update(len(history.told) - bar.n)
    elif event["event"] == "finals":
        bar.set_description(f"final scores ({event['purpose']})", refresh=False)
        bar.reset(total=event["total"])
    elif event["event"] in ("score", "complete", "base"):
        bar.update()
