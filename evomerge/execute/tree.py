"""Running the jobs of a generation of paths together: shared first blocks are run only once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

from evomerge.evaluation.inference.tree import BlockKeys, PrefixCache, steps
from evomerge.execute.protocol import Job, Result, RunJobs
from evomerge.recipe import Recipe

RunInContext: TypeAlias = Callable[..., Result]
"""Runs one job, a `Job`, and optionally what returns a context in which its model is scored, as
`evomerge.execute.worker.Worker` does."""


def as_tree(run: RunInContext, cache: PrefixCache) -> RunJobs:
    """Turn a function that runs one job into one that runs several in the order of a trie.

    It is the trie of the jobs' paths (see `evomerge.evaluation.inference.tree`).

    Args:
        run: runs one job.
        cache: keeps hidden states where paths fork, within its memory limit.
    """

    def run_tree(jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        for step in steps([block_keys(job.recipe) for job in jobs]):
            job = jobs[step.number]
            depth = sum(map(len, job.recipe.layers.values()))
            yield job, run(job, partial(cache.visit, step=step, depth=depth))

    return run_tree


def block_keys(recipe: Recipe) -> BlockKeys:
    """Return a key for each block of a recipe's model, in order.

    The first key holds the embeddings too. The folded weights of a block depend on the scales of
    earlier blocks, and these are in earlier keys. A recipe with several stacks of blocks has a
    single key.
    """
    data = recipe.to_dict()
    stacks = data.pop("layers")
    data.pop("head", None)
    if len(stacks) != 1:
        return (json.dumps(recipe.to_dict(), sort_keys=True),)
    blocks = [json.dumps(block, sort_keys=True) for block in next(iter(stacks.values()))]
    return (json.dumps(data, sort_keys=True) + blocks[0], *blocks[1:])
