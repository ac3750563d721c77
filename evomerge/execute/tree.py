"""The paths of a generation scored as a tree: what their beginnings share is computed once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

from evomerge.evaluate.inference.tree import Forks, Trail, visits
from evomerge.execute.protocol import Job, RunJobs
from evomerge.recipe import Recipe
from evomerge.scores import Outcome


class RunAround(Protocol):
    """Runs one job; `evomerge.execute.worker.Worker` does."""

    def __call__(self, job: Job, around: Callable[[Any], AbstractContextManager[None]]) -> Outcome:
        """Return the job's outcome; the scoring runs inside of `around(model)`."""
        ...


def as_tree(run: RunAround, forks: Forks) -> RunJobs:
    """Return what runs jobs in the order of the tree of their paths.

    Args:
        run: runs one job.
        forks: holds hidden states within its bound of memory.
    """

    def run_tree(jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        for visit in visits([trail(job.recipe) for job in jobs]):
            job = jobs[visit.number]
            depth = sum(map(len, job.recipe.layers.values()))
            yield job, run(job, partial(forks.visit, visit=visit, depth=depth))

    return run_tree


def trail(recipe: Recipe) -> Trail:
    """Return what tells the blocks of a recipe's model apart, from the embeddings on.

    Two recipes compute the same state behind block n if their trails agree in n + 1 places. The
    weights of a block depend on the scales before it too, and these are before it in the trail.
    """
    data = recipe.to_dict()
    stacks = data.pop("layers")
    data.pop("head", None)
    if len(stacks) != 1:
        return (json.dumps(recipe.to_dict(), sort_keys=True),)
    blocks = [json.dumps(block, sort_keys=True) for block in next(iter(stacks.values()))]
    return (json.dumps(data, sort_keys=True) + blocks[0], *blocks[1:])
