"""The state and progress of a run, read from its files alone."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

from evomerge.recipe import Recipe
from evomerge.report.confidence import factor_of, factor_of_fitness, fitness_interval
from evomerge.run.folder import RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.journal import Event
from evomerge.run.ranking import Ranking, front_of, has_nats, ranking_of, to_test
from evomerge.scores import Scores
from evomerge.space.baselines import UNIFORM
from evomerge.space.paths.path import describe
from evomerge.words import short_scores

_LATEST = 4  # candidates that are shown with their fitness or failure


def progress(run: RunFolder) -> dict[str, Any]:
    """Return what `evomerge status` prints, as plain JSON values.

    `state` is `running` while a process holds the run's lock, or `stopping` after
    `evomerge stop`; `done` if all candidates have outcomes, the winner and the base have test
    scores (a study has none), and the budget asks for no more candidates; otherwise `stopped`.
    `latest` are the last candidates, the newest last. `phase` is there during the final scores, the
    speed while the search runs, and when it has stopped `go_on`, the command that continues it.
    """
    record = run.record()
    config = record.config
    running = run.is_running  # asked first: if it ends after this, the journal has its end
    events = list(run.events())
    history = History(events)
    budget = {**config.budget.model_dump(), **history.budget}
    ranking, winner = ranking_of(record), history.winner
    done = winner is not None and all("test" in it.outcomes for it in to_test(history, ranking))
    if config.is_study:  # nothing is left to choose and test
        done = len(history.candidates) >= (budget["candidates"] or math.inf)
    done = done and not history.open and not history.lacks_base
    if done and budget["candidates"] and len(history.candidates) < budget["candidates"]:
        bounds = any(budget[name] is not None for name in ("target", "hours", "patience"))
        done = bounds and not run.stop_file.exists()
    statuses = Counter(item.status for item in history.candidates)
    parents = [item for item in history.baselines if item.label != UNIFORM]
    parent = ranking.leader(ranking.incumbents(parents))
    state = "running" if running else "done" if done else "stopped"
    result: dict[str, Any] = {
        "run": str(run.path),
        "state": "stopping" if running and run.stop_file.exists() else state,
        "candidates": len(history.candidates),
        **{name: statuses[name] for name in ("scored", "failed", "open")},
        "estimated": sum(item.is_estimate for item in history.candidates),
        "budget": {name: value for name, value in budget.items() if value is not None},
        "hours": round(run.timings.hours(), 4),
        "best": _with_interval(ranking.best(ranking.incumbents(history.candidates)), ranking),
        "best_parent": _with_interval(parent, ranking),
        "latest": [_outcome(item, ranking) for item in history.told[-_LATEST:]],
        "winner": None if winner is None else winner.number,
    }
    if ranking.has_front:
        result["front"] = [item.number for item in front_of(history, ranking)]
    spent = run.timings.spent()
    if spent:
        result["seconds"] = {name: round(item.seconds, 1) for name, item in spent.items()}
    if running and (phase := _final_phase(history, events[-1])) is not None:
        result["phase"] = phase
    if config.space.is_path and (run.path / "best.yaml").exists():
        recipe = Recipe.from_yaml((run.path / "best.yaml").read_text("utf-8"))
        of = next((item for item in history.candidates if item.digest == recipe.digest), None)
        result |= {"path": describe(recipe), "path_of": None if of is None else of.number}
    if result["state"] == "running":  # a search that stops does not go on to its budget
        result |= _speed(run, budget, result["scored"] + result["failed"])
    if result["state"] == "stopped" and not config.is_study:
        result["go_on"] = f"evomerge resume {shlex.quote(str(run.path))}"
    return result


def _with_interval(best: Candidate | None, ranking: Ranking) -> dict[str, Any] | None:
    """Return a candidate, with the 95 % interval of its fitness; None if it has no scores."""
    if best is None or (scores := best.scores("search")) is None:
        return None
    known: dict[str, Any] = {"candidate": best.number, "origin": best.name}
    of_all = {"scores": scores_of(scores, ranking)}
    if best.fitness is None:
        return known | of_all
    estimate = fitness_interval(ranking.objectives, scores)
    bounds = {"low": estimate.low, "high": estimate.high} if estimate.has_interval else {}
    return known | {"fitness": best.fitness} | of_all | bounds


def points(candidate: Candidate, ranking: Ranking) -> str:
    """Return a candidate's fitness as text; the scores if it has none, or one with nats in it."""
    scores = candidate.scores("search")
    if scores is None or candidate.fitness is None or has_nats(ranking):
        return in_words({} if scores is None else scores_of(scores, ranking))
    factor = factor_of_fitness(ranking.objectives, [scores])
    return f"{factor * candidate.fitness:.2f}" if factor == 100 else f"{candidate.fitness:.4g}"


def in_words(values: Mapping[str, float]) -> str:
    """Return scores by objective as text: `exact_match 63.3 %, tokens 16.53`."""
    names = short_scores(list(values))
    return ", ".join(
        f"{names[key]} " + (f"{100 * x:.1f} %" if factor_of([x], key) == 100 else f"{x:.4g}")
        for key, x in values.items()
    )


def scores_of(scores: Scores, ranking: Ranking) -> dict[str, float]:
    """Return `task/metric` of each objective -> score, in the metric's own sign."""
    return {item.key: scores.aggregates[item.key] for item in ranking.objectives}


def _outcome(candidate: Candidate, ranking: Ranking) -> dict[str, Any]:
    scores = candidate.scores("search")
    return {
        "candidate": candidate.number,
        "fitness": candidate.fitness,
        **({"scores": scores_of(scores, ranking)} if scores else {}),
        "is_estimate": candidate.is_estimate,
        "failure": candidate.failure,
    }


def _final_phase(history: History, last: Event) -> str | None:
    """Return how far the final scores are, as text; None if they do not go on."""
    if last["event"] == "score":
        done = sum(last["split"] in item.outcomes for item in history.candidates)
        return f"final scores: {done} on {last['split']}"
    return "final scores" if last["event"] in ("complete", "winner", "base") else None


def _speed(run: RunFolder, budget: Mapping[str, float | None], finished: int) -> dict[str, float]:
    """Return how fast candidates came in this session, and when the search will end."""
    rate = run.timings.candidates_per_hour()
    if rate is None:
        return {}
    candidates, hours = budget["candidates"], budget["hours"]
    left = [] if candidates is None else [(candidates - finished) / rate]
    left += [] if hours is None else [hours - run.timings.hours()]
    end = {"remaining_hours": round(max(0.0, min(left)), 4)} if left else {}
    return {"candidates_per_hour": round(rate, 1), **end}
