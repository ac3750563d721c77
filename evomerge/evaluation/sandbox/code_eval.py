"""The metric `code_eval`: which answers pass their tests, and pass@k.

It gives the scores of Hugging Face's `code_eval`, of the same programs with the same time limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.random  # else each child would import it

from evomerge.evaluation.sandbox.programs import passed

_may_run = False


def allow() -> None:
    """Let `compute` run programs in this process and its children."""
    global _may_run
    _may_run = True


def compute(
    references: Sequence[str],
    predictions: Sequence[Sequence[str]],
    k: int | Sequence[int] = (1, 10, 100),
    num_workers: int = 4,
    timeout: float = 3.0,
) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
    """Return pass@k: the chance that at least one of k answers is right.

    Tasks also call this when they are imported, to see whether it works. In a process that did not
    call `allow`, no program runs, and all count as failed.

    Args:
        references: for each problem, a program that tests an answer; it is put behind the answer.
        predictions: for each problem, the programs that are its answers.
        k: one or several k; those that are larger than a problem's number of answers are left out.
        num_workers: largest number of programs that run at a time.
        timeout: seconds that a program may take.

    Returns:
        `pass@k` -> its mean over the problems, by the unbiased estimate of Chen et al. (2021,
        https://arxiv.org/abs/2107.03374), and for each problem (number of the answer, its result).
    """
    programs = [
        f"{candidate}\n{test}"
        for candidates, test in zip(predictions, references, strict=False)
        for candidate in candidates
    ]
    is_right = iter(passed(programs, timeout, num_workers) if _may_run else [False] * len(programs))
    results = {}
    for problem, (candidates, _) in enumerate(zip(predictions, references, strict=False)):
        results[problem] = [
            (i, _result(problem, i, next(is_right))) for i in range(len(candidates))
        ]
    counts = [len(rows) for rows in results.values() if rows]
    right = [sum(row["passed"] for _, row in rows) for rows in results.values() if rows]
    ks = [k] if isinstance(k, int) else k
    scores = {
        f"pass@{size}": float(
            np.mean([_chance(*pair, size) for pair in zip(counts, right, strict=True)])
        )
        for size in ks
        if all(count >= size for count in counts)
    }
    return scores, results


def _result(problem: int, answer: int, is_right: bool) -> dict[str, Any]:
    return {
        "task_id": problem,
        "passed": is_right,
        "result": "passed" if is_right else "failed",
        "completion_id": answer,
    }


def _chance(count: int, right: int, k: int) -> float:
    """Return the chance that a right answer is among k of `count`, of which `right` are right."""
    if count - right < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(count - right + 1, count + 1)))
