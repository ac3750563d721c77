"""The state and progress of a run, read from its files alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from evomerge.config.schema import parse
from evomerge.recipe import Recipe
from evomerge.run.activity import WORKERS, read_activity
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.history import History
from evomerge.searching.ranking import ranking_of
from evomerge.space.paths.path import describe


def progress(run: RunFolder) -> dict[str, Any]:
    """Return what `evomerge status` prints, as plain JSON values.

    `state` is `running` while a process holds the run's lock; `done` if the winner has test scores
    and the budget asks for no more candidates; otherwise `stopped`. `phase` is there while a method
    prepares for its first merges. While the search runs, `workers` says what each worker does, and
    `candidates_per_hour` and `remaining_hours` how fast the last candidates came.
    """
    config = parse(run.config(), str(run.path / CONFIG))
    history = History(run.events())
    budget = {**config.budget.model_dump(), **history.budget}
    scored = sum(item.status == "scored" for item in history.candidates)
    failed = sum(item.status == "failed" for item in history.candidates)
    ranking = ranking_of(config)
    incumbents = ranking.incumbents(history.candidates)
    best = ranking.best(incumbents)
    winner = history.winner
    done = winner is not None and "test" in winner.outcomes
    running = run.is_running
    if done and budget["candidates"] and len(history.candidates) < budget["candidates"]:
        done = any(budget[name] is not None for name in ("target", "hours", "patience"))
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
        else {
            "candidate": best.number,
            "origin": best.name,
            **({} if ranking.has_front else {"fitness": best.fitness}),
        },
        "winner": None if winner is None else winner.number,
    }
    if ranking.has_front:
        result["front"] = [item.number for item in history.front or incumbents]
    spent = run.timings.spent()
    if spent:
        result["seconds"] = {name: round(item.seconds, 1) for name, item in spent.items()}
    if running and phase is not None:
        result["phase"] = phase
    if config.space.kind != "parameters" and (run.path / "best.yaml").exists():
        recipe = Recipe.from_yaml((run.path / "best.yaml").read_text("utf-8"))
        of = next((item for item in history.candidates if item.digest == recipe.digest), None)
        result["path"] = describe(recipe)
        result["path_of"] = None if of is None else of.number
    if running:
        result |= _speed(run, budget, scored + failed)
        states, lost = read_activity(run.path / WORKERS)
        if states:
            result["workers"] = [asdict(state) for state in states]
            result["lost_workers"] = lost
    return result


def _speed(run: RunFolder, budget: Mapping[str, float | None], finished: int) -> dict[str, float]:
    """Return how fast candidates came in this session, and when the search will end.

    Args:
        run: the run folder.
        budget: the bounds `candidates` and `hours`; None: no bound.
        finished: number of candidates with an outcome.
    """
    rate = run.timings.candidates_per_hour()
    if rate is None:
        return {}
    found = {"candidates_per_hour": round(rate, 1)}
    candidates, hours = budget["candidates"], budget["hours"]
    left = [] if candidates is None else [(candidates - finished) / rate]
    left += [] if hours is None else [hours - run.timings.hours()]
    if left:
        found["remaining_hours"] = round(max(0.0, min(left)), 4)
    return found
