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
from evomerge.errors import ConfigError, InputError
from evomerge.parsing.values import path_of, shown
from evomerge.run.atomic import check_run_folder
from evomerge.run.folder import STAGES, RunFolder, is_begun
from evomerge.run.history import Candidate, History
from evomerge.run.journal import Event
from evomerge.run.logbook import Follower
from evomerge.searching.ranking import Ranking

if TYPE_CHECKING:
    from evomerge.setup.checked import CheckedSearch
    from evomerge.trust.consent import Permissions

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
    allow_pickle: bool = False,
    allow_code: bool = False,
    trust_code: bool = False,
) -> Run:
    """Start a search, wait for its end and return its run.

    With `resume=True` it starts or continues, whichever it is, so that a cell of a notebook can be
    run again.

    If the search file has `stages`, they are run one after the other. The run that is returned is
    that of the last stage, and its `stages` are the runs of all.

    If the search is interrupted, `resume` goes on; nothing is lost.

    Args:
        config: path of a search file, or its content as a mapping. In a mapping the `task` of an
            objective may be a Python function: it gets the model, the tokenizer and a list of
            document ids, and returns one score for each of them; its attribute `documents` is the
            number of documents that it has.
        run: folder of the run, which must not exist without `resume`.
        resume: if the folder holds a run, go on with it. It must be the same search; only `budget`
            and the workers in `executor` may differ, and count from now on.
        candidates: largest number of candidates, in place of `budget.candidates`; of each stage.
        progress: whether to show a progress bar, in a notebook too.
        followers: functions that are called with the history and the event after every event. One
            that raises is not called again, and the search goes on.
        allow_pickle: accept parents with pickled weights.
        allow_code: accept tasks that run code which models write (`unsafe_code` in lm-eval:
            HumanEval, MBPP); it runs in processes with limits.
        trust_code: let the code run that the search file names, and remember its files: modules of
            functions, and task YAML with functions. Nothing needs to be said of functions that are
            passed as Python objects, and of installed packages.

    Raises:
        InputError: the search file, a parent or the folder is wrong; nothing was computed.
        SearchError: the search cannot go on.
    """
    folder = path_of(run, "run")
    data, source = content_of(config)
    allowed = permissions(allow_pickle, allow_code, trust_code)
    runner = with_bar(progress, followers)
    start(data, source, folder, candidates, allowed, warn, runner, resume=resume)
    return Run(folder)


def warn(searches: Sequence[CheckedSearch]) -> None:
    """Warn of what a person should know of checked searches before they run."""
    from evomerge.setup.preflight import warnings as warnings_of

    notes = [note for item in searches for note in warnings_of(item, allow_benchmarks=False)]
    for note in dict.fromkeys(notes):
        warnings.warn(note, stacklevel=4)


def content_of(
    config: str | PathLike[str] | Mapping[str, Any],
) -> tuple[Mapping[str, Any], Path]:
    """Return the content of a search file, and the path that relative paths start from.

    Raises:
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
    allow_pickle: bool = False,
    allow_code: bool = False,
    trust_code: bool = False,
    **executor: Any,
) -> Run:
    """Continue a search from where it was, wait for its end and return its run.

    Args:
        run: the run, or its folder. The folder of a search in stages continues with all stages that
            are left; the run of a stage continues this stage alone.
        candidates: new largest number of candidates, baselines included.
        hours: new largest number of working hours, over all sessions.
        patience: new number of candidates without a better one, at which the search ends.
        target: new fitness on the search documents at which the search ends.
        progress: whether to show a progress bar.
        followers: see `search`.
        allow_pickle: see `search`; only needed for a run that was not started on this machine.
        allow_code: as `allow_pickle`.
        trust_code: as `allow_pickle`, or if the code has changed.
        **executor: keys of the section `executor` for this session, for example
            `kind="processes", workers=4`.

    Raises:
        InputError: the folder is not a run, a parent has changed, or a bound has been reached.
        SearchError: the search cannot go on.
    """
    path = run.folder if isinstance(run, Run) else path_of(run, "run")
    bounds = {"candidates": candidates, "hours": hours, "patience": patience, "target": target}
    moves = [f"executor.{key}={json.dumps(value)}" for key, value in executor.items()]
    allowed = permissions(allow_pickle, allow_code, trust_code)
    go_on(path, bounds, moves, allowed, with_bar(progress, followers))
    return Run(path)


def permissions(allow_pickle: bool, allow_code: bool, trust_code: bool) -> Permissions:
    """Return what a caller allows; nobody is asked for more."""
    from evomerge.trust.consent import Permissions

    return Permissions(allow_pickle, allow_code, (lambda files: True) if trust_code else None)


def start(
    data: Mapping[str, Any],
    source: Path,
    folder: Path,
    candidates: int | None,
    allowed: Permissions,
    warn: Callable[[Sequence[CheckedSearch]], None],
    run: Runner,
    *,
    resume: bool = False,
) -> None:
    """Check a search or its stages, warn, create the run in a free folder and run it.

    `candidates` takes the place of `budget.candidates`, in each stage. `warn` is told of the
    checked searches before `run` runs each of them. With `resume`, a run in the folder goes on.
    """
    from evomerge.config.schema import override, parse
    from evomerge.setup import stages
    from evomerge.setup.going_on import going_on
    from evomerge.setup.runs import begin, prepare

    own = deepcopy(dict(data))  # the caller's mapping stays as it is
    if candidates is not None and stages.is_staged(own):
        own = stages.with_candidates(own, candidates)
    elif candidates is not None:
        override(own, f"budget.candidates={candidates}")
    if resume and is_begun(folder):
        _continue(folder, *going_on(folder, own, source), allowed, run)
        return
    RunFolder.check_free(folder)
    if stages.is_staged(own):
        warn(stages.start(own, source, folder, allowed))
        _continue(folder, {}, [], allowed, run)
        return
    checked = prepare(parse(own, str(source)), source.absolute().parent, allowed)
    warn([checked])
    run(*begin(folder, checked), {})


def go_on(
    path: Path,
    bounds: Mapping[str, float | None],
    moves: Sequence[str],
    allowed: Permissions,
    run: Runner,
) -> None:
    """Continue a run, or the stages of a search that are left.

    `bounds` are those of the budget (None: as before); `moves` are overrides
    `executor.KEY=VALUE` for this session.
    """
    from evomerge.setup.runs import check_budget

    given = {name: value for name, value in bounds.items() if value is not None}
    if (path / STAGES).is_file() and (given or moves):
        raise InputError(
            f"{path} is a search in stages, but {', '.join([*given, *moves])} would change one "
            f"stage; give the folder of a stage, for example {path / 'stage-1'}."
        )
    if given:
        check_budget(RunFolder(path), given)
    _continue(path, given, moves, allowed, run)


def _continue(
    path: Path,
    bounds: Mapping[str, float],
    moves: Sequence[str],
    allowed: Permissions,
    run: Runner,
) -> None:
    """Run what is left of a run, or of a search in stages, which has no bounds and moves."""
    from evomerge.setup import stages
    from evomerge.setup.runs import continued

    if (path / STAGES).is_file():
        check_run_folder(path)
        stages.run_stages(path, lambda stage, checked: run(stage, checked, {}), allowed)
        return
    folder = RunFolder(path)
    check_run_folder(folder.path)
    run(folder, continued(folder, moves, allowed), bounds)


def with_bar(progress: bool, followers: Sequence[Follower]) -> Runner:
    """Return what runs a search, with a progress bar that is a widget in a notebook."""
    from evomerge.setup.search import run_search

    def run(folder: RunFolder, checked: CheckedSearch, bounds: Mapping[str, float]) -> None:
        total = bounds.get("candidates") or checked.config.budget.candidates
        with tqdm(
            total=total and int(total), unit="candidate", desc="searching", disable=not progress
        ) as bar:
            show = partial(_show, bar, checked.ranking, [])
            run_search(checked, folder, bounds, [show, *followers])

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
