"""Checking a search file, starting a search and continuing it, from Python."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from evomerge.api.followers import SearchBar
from evomerge.api.opening import OpenRun, content_of, functions_given, go_on, start, warn
from evomerge.api.run import Run
from evomerge.evaluation.tasks.functions import given
from evomerge.parsing.values import path_of
from evomerge.problem.preflight import HEADERS, gene_list, gene_rows, summary, warnings
from evomerge.problem.problem import Problem
from evomerge.problem.runs import prepare
from evomerge.problem.search_file import folder_of, read_search
from evomerge.report.facts import progress as progress_of
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.logbook import Follower
from evomerge.searching.estimate import Estimate, estimate, try_candidate
from evomerge.searching.run import READ_IN_SECONDS, check_weights_are_finite, run_search
from evomerge.trust.consent import Permissions


@dataclass(frozen=True)
class Validation:
    """What is known of a valid search before it begins."""

    problem: Problem
    warnings: Sequence[str]

    @property
    def facts(self) -> dict[str, Any]:
        """Parents, dimension, documents, memory, disk space."""
        return summary(self.problem)

    def gene_table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return headers and rows: a row for each group of genes."""
        return HEADERS, gene_rows(self.problem)

    def estimate(self, say: Callable[[str], None]) -> Estimate:
        """Score a candidate, and return what the search costs; `say` is told what is tried."""
        return estimate(self.problem, try_candidate(self.problem, say))

    def to_dict(self, cost: Estimate | None = None) -> dict[str, Any]:
        """Return plain JSON values."""
        notes = {"genes": gene_list(self.problem), "warnings": self.warnings}
        time = {} if cost is None else {"time": cost.to_dict()}
        return {"valid": True, **self.facts, **notes, **time}


def check(
    data: Mapping[str, Any],
    source: Path,
    allowed: Permissions,
    *,
    allow_benchmarks: bool = False,
    every_weight: bool = False,
) -> Validation:
    """Check the content of the search file `source`; see `validate`."""
    problem = prepare(read_search(data, source), folder_of(source), allowed)
    check_weights_are_finite(problem, math.inf if every_weight else READ_IN_SECONDS)
    return Validation(problem, warnings(problem, allow_benchmarks))


def validate(
    config: str | PathLike[str] | Mapping[str, Any],
    *,
    allow_code: bool = False,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Check a search file: parents, shapes, tasks, metrics, documents, memory.

    Weights are read if they have at most 4 GB; `search` reads them in any case. Arguments are as
    for `search`. Returns what `evomerge validate --json` prints: documents, memory,
    `genes`, `warnings`. An InputError has a line for each mistake.
    """
    return check(*content_of(config), Permissions(allow_code, trust_code)).to_dict()


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
    other arguments are as of `search`; what was allowed when the run began does not count.

    Args:
        run: the run, or its folder.
        objectives: functions of objectives by name, where this program cannot import them from
            where the run had them, such as another notebook. A name is `module:function` as in
            `manifest.json`, or `function` alone. The functions must score as those before.
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
    with given(functions_given(folder, moves, objectives) if objectives else {}):
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
