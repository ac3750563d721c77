"""Starting and continuing a search: from Python, and what the command line shares with it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evomerge.api.objectives import with_named_functions
from evomerge.api.run import Run
from evomerge.errors import ConfigError, RunFolderError
from evomerge.parsing.values import path_of, shown
from evomerge.run.atomic import check_writable
from evomerge.run.folder import RunFolder, is_begun
from evomerge.run.history import History
from evomerge.run.logbook import Follower
from evomerge.trust.consent import Permissions

if TYPE_CHECKING:
    from evomerge.setup.checked import CheckedSearch


class Opened(NamedTuple):
    """A run that can be searched: its checked search, and bounds of the budget that are new."""

    run: RunFolder
    checked: CheckedSearch
    bounds: Mapping[str, float]
    is_new: bool

    @property
    def candidates(self) -> float | None:
        """The largest number of candidates; None: another bound ends the search."""
        return self.bounds.get("candidates") or self.checked.config.budget.candidates


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
    opened = start(data, source, folder, candidates, allowed, resume=resume)
    if opened.is_new:
        warn(opened.checked)
    return _run(opened, progress, followers)


def warn(checked: CheckedSearch, level: int = 3) -> None:
    """Warn of what a person should know of a checked search, `level` calls above this one."""
    from evomerge.setup.preflight import warnings as warnings_of

    for note in dict.fromkeys(warnings_of(checked, allow_benchmarks=False)):
        warnings.warn(note, stacklevel=level)


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
    folder = RunFolder(run.folder if isinstance(run, Run) else path_of(run, "run"))
    bounds = {"candidates": candidates, "hours": hours, "patience": patience, "target": target}
    moves = [f"executor.{key}={json.dumps(value)}" for key, value in executor.items()]
    allowed = Permissions(allow_code, trust_code)
    return _run(go_on(folder, bounds, moves, allowed), progress, followers)


def start(
    data: Mapping[str, Any],
    source: Path,
    folder: Path,
    candidates: int | None,
    allowed: Permissions,
    *,
    resume: bool = False,
) -> Opened:
    """Check a search and create its run in a free folder, or open the run there; see `search`."""
    from evomerge.config.schema import override, parse
    from evomerge.setup.runs import begin, folder_of, going_on, prepare

    content = deepcopy(dict(data))  # the caller's mapping stays as it is
    if candidates is not None:
        override(content, f"budget.candidates={candidates}")
    if resume and is_begun(folder):
        return _continued(RunFolder(folder), *going_on(folder, content, source), allowed)
    RunFolder.check_free(folder)
    wrote = parse(content, str(source))
    checked = prepare(wrote, folder_of(source), allowed)
    return Opened(begin(folder, checked, wrote, source), checked, {}, is_new=True)


def go_on(
    run: RunFolder,
    bounds: Mapping[str, float | None],
    moves: Sequence[str],
    allowed: Permissions,
) -> Opened:
    """Open a run again; a bound that is None is as before, `moves` are `executor.KEY=VALUE`."""
    from evomerge.setup.runs import check_budget

    new = {name: value for name, value in bounds.items() if value is not None}
    check_budget(run, new)
    return _continued(run, new, moves, allowed)


def _continued(
    run: RunFolder, bounds: Mapping[str, float], moves: Sequence[str], allowed: Permissions
) -> Opened:
    from evomerge.setup.runs import continued

    fix = "make it writable, or continue a copy of it"
    what = f"{run.path} cannot be continued"
    check_writable(run.path / "lock", what, fix, RunFolderError)
    return Opened(run, continued(run, moves, allowed), bounds, is_new=False)


def _run(opened: Opened, progress: bool, followers: Sequence[Follower]) -> Run:
    """Run a search to its end, with a progress bar if it is wanted."""
    from evomerge.api.bar import SearchBar
    from evomerge.setup.search import run_search

    run, checked, bounds, _ = opened
    with ExitStack() as stack:
        if progress:
            history = History(run.events())
            bar = stack.enter_context(SearchBar(checked.ranking, opened.candidates, history))
            followers = [bar.observe, *followers]
        run_search(checked, run, bounds, followers)
    return Run(run.path)
