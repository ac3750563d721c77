"""Checking a search file, and the prompts that it makes, from Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.api.search import content_of
from evomerge.problem import preflight, runs
from evomerge.problem.problem import Problem
from evomerge.problem.resolve import folder_of, read_search
from evomerge.scores import Example
from evomerge.searching.estimate import Estimate, estimate, try_candidate
from evomerge.searching.run import READ_IN_SECONDS, check_weights_are_finite, prompts
from evomerge.trust.code import Permissions

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Validation:
    """What is known of a valid search before it begins."""

    problem: Problem
    warnings: Sequence[str]

    @property
    def facts(self) -> dict[str, Any]:
        """Parents, dimension, documents, memory, disk space."""
        return preflight.summary(self.problem)

    def gene_table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return headers and rows: a row for each group of genes."""
        return preflight.HEADERS, preflight.gene_rows(self.problem)

    def prompts(self, count: int) -> list[Example]:
        """Return the first `count` search documents of each task, as the merges get them."""
        return prompts(self.problem, count)

    def estimate(self, say: Callable[[str], None]) -> Estimate:
        """Score a candidate, and return what the search costs; `say` is told what is tried."""
        return estimate(self.problem, try_candidate(self.problem, say))

    def to_dict(self, cost: Estimate | None = None) -> dict[str, Any]:
        """Return plain JSON values."""
        notes = {"genes": preflight.gene_list(self.problem), "warnings": self.warnings}
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
    problem = runs.prepare(read_search(data, source), folder_of(source), allowed)
    check_weights_are_finite(problem, math.inf if every_weight else READ_IN_SECONDS)
    return Validation(problem, preflight.warnings(problem, allow_benchmarks))


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


def documents(
    config: str | PathLike[str] | Mapping[str, Any],
    count: int = 3,
    *,
    allow_code: bool = False,
    trust_code: bool = False,
) -> pd.DataFrame:
    """Return documents of a search file as the models get them, before anything is scored.

    The other arguments are as for `search`.

    Args:
        config: path of a search file, or its content.
        count: number of search documents of each task.

    Returns:
        A row for each document: `task`, `document` (its id), `prompt` (with the chat template, if
        there is one, and the few-shot examples) and `target`. Long texts are cut. Objectives that
        have no prompts have no rows.

    Raises:
        InputError: the search file, a task or the tokenizer is wrong.
    """
    import pandas as pd

    allowed = Permissions(allow_code, trust_code)
    data, source = content_of(config)
    problem = runs.prepare(read_search(data, source), folder_of(source), allowed)
    columns = ["task", "document", "prompt", "target"]
    rows = [[getattr(one, name) for name in columns] for one in prompts(problem, count)]
    return pd.DataFrame(rows, columns=columns)
