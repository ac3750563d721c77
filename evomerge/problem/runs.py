"""Making problems of search files and run folders, and how a run may go on."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from evomerge.config.executor import installed_executors
from evomerge.config.messages import parsed
from evomerge.config.record import Record
from evomerge.config.schema import BudgetConfig, SearchConfig, load, parse
from evomerge.errors import ConfigError, InputError, RunFolderError
from evomerge.evaluation.objectives import code_files
from evomerge.parsing.texts import read_text, yaml_text
from evomerge.parsing.values import shown
from evomerge.problem.documents import RACED
from evomerge.problem.memory import check_fit
from evomerge.problem.parents import absolute_config, check_fingerprints, open_parents
from evomerge.problem.problem import Problem, record_of
from evomerge.problem.resolve import folder_of, make_space, resolve
from evomerge.run.atomic import check_writable
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.history import History
from evomerge.run.ranking import leading, ranking_of, reached_bounds
from evomerge.scores import TOLD
from evomerge.trust.code import NOTHING, Permissions

_ORDER = "order"
"""The key of `executor` that the course of a search depends on, so that `resume` keeps it."""

_FREE = {"device", "device_map", "attention", "threads", "order", "ray"}
"""Keys of `evaluation` and `executor` that say neither how models are scored nor by whom."""


def prepare(
    search: SearchConfig | Record, relative_to: Path, allowed: Permissions = NOTHING
) -> Problem:
    """Return the problem of a search file, after all checks, or of a run; see `resolve`, `reopen`.

    A search that is told its scores is refused: `evomerge.Study` makes it.
    """
    if isinstance(search, Record):
        refuse_study(search.config)
        return reopen(search, relative_to, allowed)
    refuse_study(search)
    return resolve(search, relative_to, allowed)


def refuse_study(config: SearchConfig) -> None:
    """Raise a ConfigError if a search is told its scores, so that no command can run it."""
    if config.is_study:
        raise ConfigError(
            "The search file has a score that is `told`, which evomerge cannot measure; "
            "`evomerge.Study` in Python gives you candidates, and is told their scores."
        )


def check_study(config: SearchConfig) -> None:
    """Check that a search file asks for nothing that needs documents, or workers of its own.

    ConfigError: it does, or it has an objective that is not told.
    """
    for item in (*config.objectives, *config.constraints):
        if item.source != TOLD:
            raise ConfigError(
                f"A study is told all scores, but the search file also has {item.metric!r} of "
                f"{item.source!r}; score that yourself, as `told: {item.metric}`."
            )
    keys = []
    if not config.optimizer.suits_studies:
        keys.append(f"`optimizer.name` {config.optimizer.name}")
    if config.executor.order == "generation":
        keys.append("`executor.order` generation")
    for name in ("evaluation", "executor"):
        names = sorted(getattr(config, name).model_fields_set - _FREE)
        keys += [f"`{name}.{key}`" for key in names]
    if keys:
        raise ConfigError(
            f"The search file has {keys[0]}, which needs documents or workers, but a study is told "
            "scores; remove it."
        )


def begin(path: Path, problem: Problem, wrote: SearchConfig, source: Path) -> RunFolder:
    """Create the run of a new search in a new folder; InputError: it cannot be written.

    The run keeps the text of the file `source` if that is what the user `wrote`, else what was set.
    """
    text = yaml_text(wrote.model_dump(mode="json", exclude_unset=True))
    with suppress(InputError):
        if load(source) == wrote:
            text = read_text(source, RunFolderError)
    record = record_of(problem, str(folder_of(source)))
    return RunFolder.create(path, text, record.to_json())


def reopen(record: Record, folder: Path, allowed: Permissions = NOTHING) -> Problem:
    """Return the problem of a run. Its tasks are loaded at the first use.

    Args:
        record: of the run.
        folder: the run folder, from which relative paths start. It need not be there.
        allowed: what the user allows.

    InputError: a parent is missing or has changed.
    """
    checkpoints, host = open_parents(record.config, folder)
    check_fingerprints(record, checkpoints)
    return Problem(
        config=record.config,
        checkpoints=checkpoints,
        host=host,
        space=make_space(record.config, checkpoints, record.genes),
        objectives=record.objectives,
        splits=record.splits,
        constraints=record.constraints,
        also=record.also,
        fewer_documents=record.fewer_documents,
        start=record.starts,
        unlike_merges=tuple(record.unlike_merges),
        allowed=allowed,
        record=record,
    )


def problem_of(run: RunFolder, allowed: Permissions = NOTHING) -> Problem:
    """Return the problem of a run folder; InputError: its record is damaged, or as for `reopen`."""
    return reopen(run.record(), run.path, allowed)


def continued(run: RunFolder, moves: Sequence[str] = (), allowed: Permissions = NOTHING) -> Problem:
    """Return the problem of a run that goes on now, with `executor.KEY=VALUE` in `moves`.

    InputError: as for `reopen`, the folder cannot be written, a move is not possible, code is not
    allowed, or this machine cannot run the executor.
    """
    fix = "make it writable, or continue a copy of it"
    check_writable(run.path / "lock", f"{run.path} cannot be continued", fix, RunFolderError)
    for item in moves:
        check_move(item)
    record = run.record(moves)
    refuse_study(record.config)
    if record.config.evaluation.racing.enabled is True:
        fix = "go on with evomerge at its commit 6ea4dca7, or start a new run"
        raise RunFolderError(RACED.format(f"The candidates of {run.path} raced", fix))
    problem = reopen(record, run.path, allowed)
    allowed.require(code_files(problem.config))
    problem.config.executor.check(problem.config.evaluation)
    check_fit(problem)
    return problem


def check_move(item: str) -> None:
    """Raise a `ConfigError` if `resume` may not set this (`key.path=value`)."""
    kinds = installed_executors().values()
    keys = dict.fromkeys(f"executor.{key}" for kind in kinds for key in kind.model_fields)
    del keys[f"executor.{_ORDER}"]
    if ".".join(item.partition("=")[0].split(".")[:2]) not in keys:
        raise ConfigError(
            f"--set {shown(item)}: a search that has begun keeps its search file; `resume` can "
            f"change only {', '.join(keys)}."
        )


def going_on(
    path: Path, data: Mapping[str, Any], source: Path
) -> tuple[dict[str, float], list[str]]:
    """Return what a search file changes in a run that has begun: its budget and its workers.

    `data` is its content and `source` its path. It is compared with the file that the user wrote
    when the run began: what was resolved then cannot hide that a key was removed. Returns the
    bounds of the budget that differ by name, and overrides `executor.KEY=VALUE`.

    ConfigError: the search file has a mistake; RunFolderError: it is that of another search.
    """
    run, file = RunFolder(path), path / CONFIG
    asked = absolute_config(parse(data, str(source)), folder_of(source))
    wrote = absolute_config(parse(run.written(), str(file)), folder_of(file))
    now, then = (_flat(item.model_dump(mode="json")) for item in (asked, wrote))
    changed = [key for key in {**now, **then} if now.get(key) != then.get(key)]
    if "optimizer.name" in changed:  # the keys that only one of both has follow from this
        changed = [c for c in changed if not c.startswith("optimizer.") or c in now.keys() & then]
    free = ("budget.", "executor.")
    if changed := [c for c in changed if not c.startswith(free) or c == f"executor.{_ORDER}"]:
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
    workers = asked.executor.model_dump(mode="json", exclude={_ORDER})
    return bounds, [f"executor.{key}={json.dumps(value)}" for key, value in workers.items()]


def _flat(plain: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return all values of a search file by their keys, such as `evaluation.fewshot`."""
    values: dict[str, Any] = {}
    for key, value in plain.items():
        name = f"{before}{key}"
        values |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return values


def check_budget(run: RunFolder, bounds: Mapping[str, float]) -> None:
    """Check that new bounds of a run's budget leave something to do.

    A new number of candidates may be the one that the run has: the same command can be given again.
    A larger number than the one that has ended the search leaves the rest of a generation, whatever
    else is reached: the search asks for it to its end, as if it had had the larger number before.

    ConfigError: a new bound is none, such as 0 candidates; RunFolderError: the run has reached a
    bound already, a new one or one that stays.
    """
    if not bounds:
        return
    parsed(BudgetConfig, bounds, "budget")
    history, record = History(run.events()), run.record()
    count, ranking = len(history.candidates), ranking_of(record)
    before = record.config.budget.model_copy(update=history.budget)
    is_cut = bounds.get("candidates", 0) > count == before.candidates
    if is_cut and record.config.executor.order != "arrival":
        return
    budget = before.model_copy(update=dict(bounds))
    if budget.candidates == count == bounds.get("candidates"):
        budget = budget.model_copy(update={"candidates": None})
    incumbents = leading(ranking, history.candidates)
    for name in reached_bounds(budget, history, ranking, incumbents, run.timings.hours()):
        raise RunFolderError(
            f"The search of {run.path} has reached budget.{name} ({getattr(budget, name):g}), "
            f"where it ends; give a larger --{name}."
        )
