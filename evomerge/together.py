"""Several candidates of a data-flow search scored together, shared beginnings of paths once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

from evomerge.evaluate.tree import Forks, Trail, visits
from evomerge.execute.protocol import Job
from evomerge.recipe import Recipe
from evomerge.scores import Outcome


class Runs(Protocol):
    """Runs one job; `evomerge.worker.Worker` does."""

    def __call__(self, job: Job, around: Callable[[Any], AbstractContextManager[None]]) -> Outcome:
        """Return the job's outcome; the scoring runs inside of `around(model)`."""
        ...


def trail(recipe: Recipe) -> Trail:
    """Return what tells the blocks of a recipe's model apart, from the embeddings on.

    Two recipes compute the same state behind block n if their trails agree in n + 1 places. The
    weights of a block depend on the scales before it too, and these are before it in the trail.
    """
    data = recipe.to_dict()
    stacks = data.pop("layers")
    data.pop("after", None)
    if len(stacks) != 1:
        return (json.dumps(recipe.to_dict(), sort_keys=True),)
    blocks = [json.dumps(block, sort_keys=True) for block in next(iter(stacks.values()))]
    return (json.dumps(data, sort_keys=True) + blocks[0], *blocks[1:])


def run_together(worker: Runs, jobs: Sequence[Job], forks: Forks) -> Iterator[tuple[Job, Outcome]]:
    """Yield every job with its outcome, in the order of the trie of their paths.

    Args:
        worker: runs one job.
        jobs: candidates to score on the same split.
        forks: holds hidden states within its bound of memory.
    """
    for visit in visits([trail(job.recipe) for job in jobs]):
        job = jobs[visit.number]
        depth = sum(map(len, job.recipe.layers.values()))
        yield job, worker(job, partial(forks.visit, visit=visit, depth=depth))


def forks() -> Forks:
    """Return a holder of hidden states that may take an eighth of the memory available now."""
    import psutil

    return Forks(int(psutil.virtual_memory().available // 8))
