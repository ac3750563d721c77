"""The texts that the base writes before the test: the work of writing them, and their file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from evomerge.errors import RunFolderError, SearchError, blaming
from evomerge.evaluation.tasks.base_texts import (
    Text,
    digest_of,
    from_lines,
    to_lines,
    write_texts,
)
from evomerge.parsing.texts import read_text
from evomerge.problem.problem import Problem
from evomerge.recipe import Recipe
from evomerge.run.folder import TEXTS, RunFolder
from evomerge.run.history import History

if TYPE_CHECKING:
    from evomerge.execute.worker import Worker

FEWEST = 8
"""Texts that are written whatever they cost."""

_SHARE = 0.05
"""Of the documents that the search has scored, how many texts are written at most, ..."""

_CHEAP = 10
"""... if these are generated answers; a rule of thumb: others cost a tenth of a text."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WriteTexts:
    """Writes texts with the base; see `evomerge.execute.protocol.Work`.

    Attributes:
        recipe: that of the base as itself.
        count, seed: see `evomerge.evaluation.tasks.base_texts.write_texts`.
    """

    phase: ClassVar[str] = "write"

    recipe: Recipe
    count: int
    seed: int

    def run(self, worker: Worker) -> Mapping[str, Any]:
        """Return the texts as lines."""
        model, tokenizer = worker.load_alone(self.recipe.host)
        texts = write_texts(model, tokenizer, self.count, self.seed)
        return {"count": len(texts), "lines": to_lines(texts)}

    def failed(self, why: str) -> Mapping[str, Any]:
        """Return why there are no texts."""
        log.warning("The base wrote no texts (%s).", why)
        return {"failure": why}

    def cost(self, worker: Worker, steps: int | None = None) -> Mapping[str, Any]:
        """Refuse: it is not estimated; see `Work`."""
        raise SearchError("What the texts of the base cost is not estimated.")


def count_texts(problem: Problem, history: History) -> int:
    """Return how many texts the base writes for a search, which must not take long beside it.

    The number depends on documents, not on times, so that two runs of a search are equal.
    """
    most = problem.config.also_texts or 0
    scored = (candidate.scores("search") for candidate in history.candidates)
    documents = sum(sum(scores.fidelity.values()) for scores in scored if scores)
    info = problem.evaluator.tasks_of("search").info
    writes = any(info.tasks[task].generates for task in problem.splits["search"])
    share = _SHARE * documents / (1 if writes else _CHEAP)
    return min(most, max(FEWEST, int(share)))


def read_texts(run: RunFolder, digest: str) -> tuple[Text, ...]:
    """Return the texts in a run folder; RunFolderError: they are missing or were changed."""
    file = run.path / TEXTS
    content = read_text(file, RunFolderError, f"{file} is missing; restore it from a copy.")
    if digest_of(content) != digest:
        raise RunFolderError(
            f"{file} was changed after the base wrote it; restore it from a copy, since what was "
            "scored on it would not be comparable."
        )
    with blaming(RunFolderError, f"{file} has no texts ({{error}}); restore it from a copy."):
        return from_lines(content)
