"""The state and progress of a run, read from its files alone."""

from __future__ import annotations

from typing import Any

from evomerge.config.frozen import frozen_objectives
from evomerge.config.schema import parse
from evomerge.recipe import Recipe
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.history import History
from evomerge.search.ranking import WeightedSum
from evomerge.space.paths.path import describe


def progress(run: RunFolder) -> dict[str, Any]:
    """Return what `evomerge status` prints, as plain JSON values.

    `state` is `running` while a process holds the run's lock; `done` if the winner has test scores
    and the budget asks for no more candidates; otherwise `stopped`. `phase` is there while a method
    prepares for its first merges.
    """
    config = parse(run.config(), str(run.path / CONFIG))
    history = History(run.events())
    budget = {**config.budget.model_dump(), **history.budget}
    scored = sum(item.status == "scored" for item in history.candidates)
    failed = sum(item.status == "failed" for item in history.candidates)
    ranking = WeightedSum(frozen_objectives(config))
    best = next(iter(ranking.incumbents(history.candidates)), None)
    winner = history.winner
    done = winner is not None and "test" in winner.outcomes
    running = run.is_running
    if done and budget["candidates"] and len(history.candidates) < budget["candidates"]:
        done = budget["target"] is not None or budget["hours"] is not None
    hours, phase = run.timings.hours(), run.timings.preparation()
    result: dict[str, Any] = {
        "run": str(run.path),
        "state": "running" if running else "done" if done else "stopped",
        "candidates": len(history.candidates),
        "scored": scored,
        "failed": failed,
        "open": len(history.open),
        "estimated": sum(item.is_estimate for item in history.candidates),
        "budget": {name: value for name, value in budget.items() if value is not None},
        "hours": round(hours, 4),
        "best": None
        if best is None
        else {"candidate": best.number, "origin": best.name, "fitness": best.fitness},
        "winner": None if winner is None else winner.number,
    }
    spent = run.timings.spent()
    if spent:
        result["seconds"] = {name: round(item.seconds, 1) for name, item in spent.items()}
    if running and phase is not None:
        result["phase"] = phase
    if config.space.kind != "parameters" and (run.path / "best.yaml").exists():
        result["path"] = describe(Recipe.from_yaml((run.path / "best.yaml").read_text("utf-8")))
    finished = scored + failed
    if running and budget["candidates"] and finished:
        left = max(0, int(budget["candidates"]) - finished)
        result["remaining_hours"] = round(left * hours / finished, 4)
    return result
