"""Starting a search and continuing it, from Python."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.api.followers import SearchBar
from evomerge.api.run import Run
from evomerge.config.executor import EXECUTORS
from evomerge.config.schema import override, read
from evomerge.errors import ConfigError, among
from evomerge.evaluation.objectives import function_names
from evomerge.evaluation.tasks.functions import given
from evomerge.parsing.values import path_of, replaced
from evomerge.problem import preflight, runs
from evomerge.problem.problem import Problem
from evomerge.problem.resolve import folder_of, read_search
from evomerge.report.facts import progress as progress_of
from evomerge.run.folder import RunFolder, is_begun
from evomerge.run.history import History
from evomerge.run.logbook import Follower
from evomerge.searching.run import run_search
from evomerge.trust.code import Permissions


class OpenRun(NamedTuple):
    """A run to search: its problem, and bounds of the budget that are new."""

    run: RunFolder
    problem: Problem
    bounds: Mapping[str, float]

    @property
    def candidates(self) -> float | None:
        """The largest number of candidates; None: another bound ends the search."""
        return self.bounds.get("candidates") or self.problem.config.budget.candidates


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

    If it is interrupted, nothing is lost: `resume` continues it.

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
        allow_code: accept tasks that may run what models write (HumanEval, minerva_math), in
            processes with limits.
        trust_code: run code that the search file names and that is in no installed package:
            modules of functions, task YAML with functions, and YAML that changes what functions
            of lm-eval read. Functions that are passed as Python objects need no consent.

    Raises:
        InputError: the search file, a parent or the folder is wrong; nothing was computed.
        SearchError: the search cannot go on.
    """
    folder = path_of(run, "run")
    data, source = content_of(config)
    allowed = Permissions(allow_code, trust_code)
    opened = start(data, source, folder, candidates, allowed, warn=warn, resume=resume)
    return _run(opened, progress, followers)


def resume(
    run: str | PathLike[str] | Run,
    *,
    candidates: int | None = None,
    hours: float | None = None,
    patience: int | None = None,
    target: float | None = None,
    objectives: Mapping[str, Callable[..., Any]] | None = None,
    progress: bool = True,
    followers: Sequence[Follower] = (),
    allow_code: bool = False,
    trust_code: bool = False,
    **executor: Any,
) -> Run:
    """Continue a search from where it was, wait for its end and return its run.

    `candidates`, `hours`, `patience` and `target` are new bounds, as in the section `budget`. The
    other arguments are as for `search`; what was allowed when the run began does not count.

    Args:
        run: the run, or its folder.
        objectives: functions of objectives by name, where this program cannot import them from
            where the run had them, such as another notebook. A name is `module:function` as in
            `manifest.json`, or `function` alone. The functions must score as the earlier ones did.
        **executor: keys of the section `executor` for this session, for example
            `kind="processes", workers=4`.

    Raises:
        InputError: the folder is not a run, a parent has changed, a bound has been reached, or the
            run has no such objective.
        SearchError: the search cannot go on.
    """
    folder = RunFolder(run.folder if isinstance(run, Run) else path_of(run, "run"))
    bounds = {"candidates": candidates, "hours": hours, "patience": patience, "target": target}
    moves = [f"executor.{key}={json.dumps(value)}" for key, value in executor.items()]
    allowed = Permissions(allow_code, trust_code)
    with given(_functions_given(folder, moves, objectives) if objectives else {}):
        return _run(go_on(folder, bounds, moves, allowed), progress, followers)


def _run(opened: OpenRun, progress: bool, followers: Sequence[Follower]) -> Run:
    """Run a search to its end, with a progress bar if it is wanted."""
    run, problem, bounds = opened
    bar = None
    if progress and (bounds or progress_of(run)["state"] != "done"):
        bar = SearchBar(problem.ranking, opened.candidates, History(run.events()))
        followers = [bar.observe, *followers]
    try:
        with bar or nullcontext():
            run_search(problem, run, bounds, followers)
    except KeyboardInterrupt:
        say = f"nothing is lost; go on with evomerge.resume({str(run.path)!r})"
        raise KeyboardInterrupt(say) from None
    return Run(run.path)


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
    content = with_candidates(data, candidates)
    if resume and is_begun(folder):
        bounds, moves = runs.going_on(folder, content, source)
        run = RunFolder(folder)
        return OpenRun(run, runs.continued(run, moves, allowed), bounds)
    RunFolder.check_free(folder)
    search_file = read_search(content, source)
    problem = runs.prepare(search_file, folder_of(source), allowed)
    warn(problem)
    return OpenRun(runs.begin(folder, problem, search_file, source), problem, {})


def go_on(
    run: RunFolder,
    bounds: Mapping[str, float | None],
    moves: Sequence[str],
    allowed: Permissions,
) -> OpenRun:
    """Open a run again; a bound that is None is as before, `moves` are `executor.KEY=VALUE`."""
    new = {name: value for name, value in bounds.items() if value is not None}
    runs.check_budget(run, new)
    return OpenRun(run, runs.continued(run, moves, allowed), new)


def with_candidates(data: Mapping[str, Any], candidates: int | None) -> dict[str, Any]:
    """Return a copy of a search file, with another largest number of candidates if there is one."""
    content = deepcopy(dict(data))
    if candidates is not None:
        override(content, f"budget.candidates={candidates}")
    return content


def warn(problem: Problem) -> None:
    """Warn of what users should know about a search that their own code begins."""
    for note in dict.fromkeys(preflight.warnings(problem, allow_benchmarks=False)):
        warnings.warn(note, stacklevel=4)


def content_of(
    config: str | PathLike[str] | Mapping[str, Any],
) -> tuple[Mapping[str, Any], Path]:
    """Return the content of a search file, and the path that relative paths start from.

    InputError: it is no path and no mapping, the file cannot be read, or a function cannot be found
    again by its name.
    """
    if isinstance(config, Mapping):
        plain = replaced(config, lambda value: str(value) if isinstance(value, PathLike) else value)
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
    for entry in objectives:
        task = entry.get("task") if isinstance(entry, Mapping) else entry
        if callable(task):
            name = _name(task)
            is_here = executor not in EXECUTORS.names() or EXECUTORS.get(executor).in_process
            if name.startswith("__main__:") and not is_here:
                raise ConfigError(
                    f"The objective function {name.partition(':')[2]!r} is defined in this script "
                    f"or notebook, but `executor.kind` is {executor!r}, whose processes "
                    "cannot import it; put the function into a module."
                )
            metrics = list(getattr(task, "metrics", ("score",)))
            only = {"metric": metrics[0]} if len(metrics) == 1 else {}
            entry = {**only, **(entry if isinstance(entry, Mapping) else {}), "task": name}
        named.append(entry)
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


def _functions_given(
    run: RunFolder, moves: Sequence[str], objectives: Mapping[str, Callable[..., Any]]
) -> dict[str, Callable[..., Any]]:
    """Return functions by the names that the objectives of a run have; see `resume`.

    ConfigError: the run has no such function, a name fits two, or workers in other processes would
    need it.
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
