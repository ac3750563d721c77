"""Opening what is to be searched: a search file becomes a run, or a run goes on."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.config.executor import EXECUTORS
from evomerge.config.messages import parsed
from evomerge.config.schema import BudgetConfig, override, read
from evomerge.errors import ConfigError, RunFolderError, among
from evomerge.evaluation.objectives import function_names
from evomerge.parsing.values import path_of, replaced
from evomerge.problem.preflight import warnings as warnings_of
from evomerge.problem.problem import Problem
from evomerge.problem.resolve import resolve
from evomerge.problem.runs import begin, check_budget, check_study, continued, going_on, prepare
from evomerge.problem.search_file import folder_of, read_search
from evomerge.run.atomic import check_writable
from evomerge.run.folder import RunFolder, is_begun
from evomerge.searching.run import check_weights_are_finite
from evomerge.trust.consent import Permissions


class OpenRun(NamedTuple):
    """A run to search: its problem, and bounds of the budget that are new."""

    run: RunFolder
    problem: Problem
    bounds: Mapping[str, float]

    @property
    def candidates(self) -> float | None:
        """The largest number of candidates; None: another bound ends the search."""
        return self.bounds.get("candidates") or self.problem.config.budget.candidates


def content_of(
    config: str | PathLike[str] | Mapping[str, Any],
) -> tuple[Mapping[str, Any], Path]:
    """Return the content of a search file, and the path that relative paths start from.

    InputError: it is no path and no mapping, the file cannot be read, or a function cannot be found
    again by its name.
    """
    if isinstance(config, Mapping):
        plain = replaced(config, lambda it: str(it) if isinstance(it, PathLike) else it)
        return with_named_functions(plain), Path("config")
    file = path_of(config, "config", ", or a mapping")
    return read(file), file


def with_named_functions(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a search file in which every Python function is replaced by `module:function`.

    So `resume` finds it again. An objective may be the function alone, or a mapping whose `task` is
    the function. If the function has one metric, the mapping need not name it. A ConfigError says
    that the function cannot be found by its name, or not by the processes that need it.
    """
    objectives, section = config.get("objectives"), config.get("executor")
    if not isinstance(objectives, list):  # left to the check
        return dict(config)
    executor = section.get("kind") if isinstance(section, Mapping) else None
    named = []
    for item in objectives:
        task = item.get("task") if isinstance(item, Mapping) else item
        if callable(task):
            name = _name(task)
            if name.startswith("__main__:") and _runs_elsewhere(executor):
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


def _runs_elsewhere(executor: Any) -> bool:
    """Return whether the executor that a search file names runs candidates in other processes."""
    is_known = isinstance(executor, str) and executor in EXECUTORS.names()
    return is_known and not EXECUTORS.get(executor).in_process


def _name(function: Callable[..., Any]) -> str:
    """Return `module:function`, after checking that this names the function."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if getattr(sys.modules.get(module), name, None) is not function:
        raise ConfigError(
            f"The objective {name or function!r} is not a function at the top level of a module, "
            "script or notebook, so `resume` could not find it again; define it there with `def`."
        )
    return f"{module}:{name}"


def functions_given(
    run: RunFolder, moves: Sequence[str], objectives: Mapping[str, Callable[..., Any]]
) -> dict[str, Callable[..., Any]]:
    """Return functions by the names that the objectives of a run have.

    Args:
        run: the run that goes on.
        moves: `executor.KEY=VALUE` for this session.
        objectives: name -> function; the name is `module:function` as in the run's manifest, or
            what is after the colon.

    Raises:
        ConfigError: the run has no such function, a name fits two, or workers in other processes
            would need it.
    """
    config, functions = run.record(moves).config, dict[str, Callable[..., Any]]()
    names = function_names(config)
    for key, function in objectives.items():
        fitting = [name for name in names if key in (name, name.partition(":")[2])]
        if len(fitting) > 1:
            raise ConfigError(
                f"objectives names {key!r}, but the run {run.path} has several functions of that "
                f"name; give the whole one of {', '.join(fitting)}."
            )
        if not fitting:
            short = [name.rpartition(":")[2] for name in names]
            raise ConfigError(
                f"objectives names {key!r}, but the run {run.path} has no such function; allowed "
                f"are {among(str(key), short)}"
            )
        if not callable(function):
            raise ConfigError(
                f"objectives has {function!r:.80} for {key!r}, which is no function; give one "
                "that returns a score for each document."
            )
        functions[fitting[0]] = function
    if functions and not config.executor.in_process:
        raise ConfigError(
            f"objectives has the function {next(iter(objectives))!r}, but `executor.kind` is "
            f"{config.executor.kind!r}, whose processes cannot get it; add kind='inline'."
        )
    return functions


def start(
    data: Mapping[str, Any],
    source: Path,
    folder: Path,
    candidates: int | None,
    allowed: Permissions,
    *,
    warn: Callable[[Problem], None],
    resume: bool = False,
) -> OpenRun:
    """Check a search and create its run in a free folder, or open the run there; see `search`.

    `warn` is called with a new search before its run is created.
    """
    content = _with_candidates(data, candidates)
    if resume and is_begun(folder):
        return _continue(RunFolder(folder), *going_on(folder, content, source), allowed)
    RunFolder.check_free(folder)
    search_file = read_search(content, source)
    problem = prepare(search_file, folder_of(source), allowed)
    warn(problem)
    return OpenRun(begin(folder, problem, search_file, source), problem, {})


def go_on(
    run: RunFolder,
    bounds: Mapping[str, float | None],
    moves: Sequence[str],
    allowed: Permissions,
) -> OpenRun:
    """Open a run again; a bound that is None is as before, `moves` are `executor.KEY=VALUE`."""
    new = {name: value for name, value in bounds.items() if value is not None}
    check_budget(run, new)
    return _continue(run, new, moves, allowed)


def _continue(
    run: RunFolder, bounds: Mapping[str, float], moves: Sequence[str], allowed: Permissions
) -> OpenRun:
    fix = "make it writable, or continue a copy of it"
    what = f"{run.path} cannot be continued"
    check_writable(run.path / "lock", what, fix, RunFolderError)
    return OpenRun(run, continued(run, moves, allowed), bounds)


def start_study(
    config: str | PathLike[str] | Mapping[str, Any] | None, folder: Path, candidates: int | None
) -> dict[str, float]:
    """Create the run of a study, if the folder has none; return the bounds that are new."""
    bounds = {} if candidates is None else {"candidates": candidates}
    if bounds:
        parsed(BudgetConfig, bounds, "budget")
    if config is None:
        if not is_begun(folder):
            raise RunFolderError(
                f"{folder} has no study that could go on; give a search file, with which one "
                "begins."
            )
        return dict(bounds)
    data, source = content_of(config)
    content = _with_candidates(data, candidates)
    if is_begun(folder):
        return going_on(folder, content, source)[0]
    RunFolder.check_free(folder)
    search_file = read_search(content, source)
    check_study(search_file)
    problem = resolve(search_file.with_values("executor", order="arrival"), folder_of(source))
    check_weights_are_finite(problem)
    warn(problem)
    begin(folder, problem, search_file, source)
    return {}


def _with_candidates(data: Mapping[str, Any], candidates: int | None) -> dict[str, Any]:
    """Return a copy of a search file, with another largest number of candidates if there is one."""
    content = deepcopy(dict(data))
    if candidates is not None:
        override(content, f"budget.candidates={candidates}")
    return content


def warn(problem: Problem) -> None:
    """Warn of what a person should know of a search, where their own code begins it."""
    for note in dict.fromkeys(warnings_of(problem, allow_benchmarks=False)):
        warnings.warn(note, stacklevel=4)
