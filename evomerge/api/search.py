"""Starting and continuing a search from Python."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.api.objectives import with_named_functions
from evomerge.api.progress import ProgressBar
from evomerge.api.run import Run
from evomerge.errors import InputError
from evomerge.run.atomic import check_run_folder
from evomerge.run.folder import STAGES, RunFolder
from evomerge.run.journal import truncate as cut_journal
from evomerge.run.logbook import Follower

if TYPE_CHECKING:
    from evomerge.setup.checked import CheckedSearch, Permissions


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
    from evomerge.config.schema import override, parse, read, refuse_frozen
    from evomerge.setup import stages
    from evomerge.setup.checked import Permissions
    from evomerge.setup.runs import begin, prepare
    from evomerge.trust.consent import Consent

    folder = Path(run)
    RunFolder.check_free(folder)
    if isinstance(config, Mapping):
        data, source = with_named_functions(config), Path("config")
    else:
        data, source = read(Path(config)), Path(config)
    refuse_frozen(data, source)
    allowed = Permissions(
        allow_pickle=allow_pickle, allow_code=allow_code, consent=Consent(given=trust_code)
    )
    if stages.is_staged(data):
        if candidates:
            data = stages.with_candidates(data, candidates)
        searches = stages.start(data, source, folder, **allowed)
        _warn(searches)
        return _run_stages(folder, progress, followers, allowed)
    if candidates:
        data = deepcopy(data)  # the caller's mapping stays as it is
        override(data, f"budget.candidates={candidates}")
    parsed = parse(data, str(source))
    checked = prepare(parsed, source.absolute().parent, **allowed)
    _warn([checked])
    return _run(*begin(folder, checked), {}, progress, followers)


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
    from evomerge.setup.checked import Permissions
    from evomerge.setup.runs import check_budget, continued
    from evomerge.trust.consent import Consent

    allowed = Permissions(
        allow_pickle=allow_pickle, allow_code=allow_code, consent=Consent(given=trust_code)
    )
    path = run.folder if isinstance(run, Run) else Path(run)
    bounds = {"candidates": candidates, "hours": hours, "patience": patience, "target": target}
    if (path / STAGES).is_file():
        given = bounds | executor | {"truncate": truncate or None}
        changed = [name for name, value in given.items() if value is not None]
        if changed:
            raise InputError(
                f"{path} is a search in stages, but {', '.join(changed)} would change one stage; "
                f"give the folder of a stage, for example {path / 'stage-1'}."
            )
        check_run_folder(path)
        return _run_stages(path, progress, followers, allowed)
    folder = RunFolder(path)
    given = {name: value for name, value in bounds.items() if value is not None}
    check_run_folder(folder.path)
    if truncate and (cut := cut_journal(folder.journal_path)) is not None:
        warnings.warn(f"{cut}.", stacklevel=2)
    check_budget(folder, given)
    moves = [f"executor.{key}={json.dumps(value)}" for key, value in executor.items()]
    return _run(folder, continued(folder, moves, **allowed), given, progress, followers)


def _warn(searches: Sequence[CheckedSearch]) -> None:
    """Warn, once each, of what a person should know before these searches start."""
    from evomerge.setup.preflight import warnings as warnings_of

    notes = [note for checked in searches for note in warnings_of(checked, allow_benchmarks=False)]
    for note in dict.fromkeys(notes):
        warnings.warn(note, stacklevel=3)


def _run_stages(
    folder: Path, progress: bool, followers: Sequence[Follower], allowed: Permissions
) -> Run:
    from evomerge.setup.stages import run_stages

    def run(stage: RunFolder, checked: CheckedSearch) -> None:
        _run(stage, checked, {}, progress, followers)

    run_stages(folder, run, **allowed)
    return Run(folder)


def _run(
    folder: RunFolder,
    checked: CheckedSearch,
    bounds: Mapping[str, float],
    progress: bool,
    followers: Sequence[Follower],
) -> Run:
    from evomerge.setup.search import run_search

    if not progress:
        run_search(checked, folder, bounds, followers)
        return Run(folder.path)
    total = bounds.get("candidates") or checked.config.budget.candidates
    with ProgressBar(int(total) if total else None) as bar:
        run_search(checked, folder, bounds, [bar.observe, *followers])
    return Run(folder.path)
