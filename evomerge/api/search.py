"""Starting and continuing a search: from Python, and what the command line shares with it."""

from __future__ import annotations

import json
import math
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
from evomerge.errors import InputError
from evomerge.run.atomic import check_run_folder
from evomerge.run.folder import STAGES, RunFolder
from evomerge.run.history import History
from evomerge.run.journal import truncate as truncate_journal
from evomerge.run.lines import Event
from evomerge.run.logbook import Follower

if TYPE_CHECKING:
    from evomerge.setup.checked import CheckedSearch
    from evomerge.trust.consent import Permissions

Runner: TypeAlias = "Callable[[RunFolder, CheckedSearch, Mapping[str, float]], None]"
"""Runs a search to its end; the bounds of the budget that are new are by name."""


def search(
    config: str | PathLike[str] | Mapping[str, Any],
    run: str | PathLike[str],
    *,
    candidates: int | None = None,
    progress: bool = True,
    followers: Sequence[Follower] = (),
    allow_pickle: bool = False,
    allow_code: bool = False,
    trust_code: bool = False,
) -> Run:
    """Start a search, wait for its end and return its run.

    If the search file has `stages`, they are run one after the other. The run that is returned is
    that of the last stage, and its `stages` are the runs of all.

    If the search is interrupted, `resume` goes on; nothing is lost.

    Args:
        config: path of a search file, or its content as a mapping. In a mapping the `task` of an
            objective may be a Python function: it gets the model, the tokenizer and a list of
            document ids, and returns one score for each of them; its attribute `documents` is the
            number of documents that it has.
        run: folder of the run, which must not exist.
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
    from evomerge.config.schema import read

    folder = Path(run)
    RunFolder.check_free(folder)
    if isinstance(config, Mapping):
        data, source = with_named_functions(config), Path("config")
    else:
        data, source = read(Path(config)), Path(config)

    def warn(searches: Sequence[CheckedSearch]) -> None:
        from evomerge.setup.preflight import warnings as warnings_of

        notes = [note for item in searches for note in warnings_of(item, allow_benchmarks=False)]
        for note in dict.fromkeys(notes):
            warnings.warn(note, stacklevel=4)

    allowed = permissions(allow_pickle, allow_code, trust_code)
    start(data, source, folder, candidates, allowed, warn, _runner(progress, followers))
    return Run(folder)


def resume(
    run: str | PathLike[str] | Run,
    *,
    candidates: int | None = None,
    hours: float | None = None,
    patience: int | None = None,
    target: float | None = None,
    truncate: bool = False,
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
        truncate: cut a damaged journal before its first bad line. The damaged file is kept as
            `journal.jsonl.damaged-N`, and a warning says how many events were dropped.
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
    path = run.folder if isinstance(run, Run) else Path(run)
    bounds = {"candidates": candidates, "hours": hours, "patience": patience, "target": target}
    moves = [f"executor.{key}={json.dumps(value)}" for key, value in executor.items()]
    if truncate and (cut := cut_journal(path)) is not None:
        warnings.warn(f"{cut}.", stacklevel=2)
    allowed = permissions(allow_pickle, allow_code, trust_code)
    go_on(path, bounds, moves, allowed, _runner(progress, followers))
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
) -> None:
    """Check a search or its stages, warn, create the run in a free folder and run it.

    `candidates` takes the place of `budget.candidates`, in each stage. `warn` is told of the
    checked searches before `run` runs each of them.
    """
    from evomerge.config.schema import override, parse
    from evomerge.setup import stages
    from evomerge.setup.runs import begin, prepare

    if stages.is_staged(data):
        if candidates:
            data = stages.with_candidates(data, candidates)
        warn(stages.start(data, source, folder, allowed))
        stages.run_stages(folder, lambda stage, checked: run(stage, checked, {}), allowed)
        return
    own = deepcopy(dict(data))  # the caller's mapping stays as it is
    if candidates:
        override(own, f"budget.candidates={candidates}")
    checked = prepare(parse(own, str(source)), source.absolute().parent, allowed)
    warn([checked])
    run(*begin(folder, checked), {})


def cut_journal(path: Path) -> str | None:
    """Cut the damaged journal of a run before its first bad line; return what was cut, if any."""
    folder = RunFolder(path)
    check_run_folder(folder.path)
    return truncate_journal(folder.journal_path)


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
    from evomerge.setup import stages
    from evomerge.setup.runs import check_budget, continued

    given = {name: value for name, value in bounds.items() if value is not None}
    if (path / STAGES).is_file():
        if given or moves:
            raise InputError(
                f"{path} is a search in stages, but {', '.join([*given, *moves])} would change one "
                f"stage; give the folder of a stage, for example {path / 'stage-1'}."
            )
        check_run_folder(path)
        stages.run_stages(path, lambda stage, checked: run(stage, checked, {}), allowed)
        return
    folder = RunFolder(path)
    check_run_folder(folder.path)
    check_budget(folder, given)
    run(folder, continued(folder, list(moves), allowed), given)


def _runner(progress: bool, followers: Sequence[Follower]) -> Runner:
    """Return what runs a search, with a progress bar that is a widget in a notebook."""
    from evomerge.setup.search import run_search

    def run(folder: RunFolder, checked: CheckedSearch, bounds: Mapping[str, float]) -> None:
        total = bounds.get("candidates") or checked.config.budget.candidates
        with tqdm(
            total=total and int(total), unit="candidate", desc="searching", disable=not progress
        ) as bar:
            run_search(checked, folder, bounds, [partial(_show, bar), *followers])

    return run


def _show(bar: tqdm[Any], history: History, event: Event) -> None:
    """Show on a bar how many candidates are scored, and the best fitness so far."""
    if event["event"] == "tell":
        known = [item.fitness for item in history.told if not item.is_estimate]
        best = max((value for value in known if value is not None), default=math.nan)
        bar.set_postfix(best=f"{best:.4f}", refresh=False)
        bar.update(len(history.told) - bar.n)
    elif event["event"] == "finals":
        bar.set_description(f"final scores ({event['purpose']})", refresh=False)
        bar.reset(total=event["total"])
    elif event["event"] in ("score", "complete"):
        bar.update()
