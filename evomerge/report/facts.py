"""What is known of a run, as plain values: how far it is, its candidates, their documents."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from evomerge.recipe import Recipe
from evomerge.report.confidence import Interval, factor_of, factor_of_fitness, fitness_interval
from evomerge.run.folder import RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.journal import PHASES, Event
from evomerge.run.ranking import Ranking, front_of, has_nats, ranking_of, to_test
from evomerge.scores import SPLITS, Objective, Scores, Split, fitness_error
from evomerge.space.baselines import UNIFORM
from evomerge.space.paths import describe
from evomerge.words import duration, short_names, short_scores

FINAL_SPLITS: tuple[Split, ...] = ("validation", "test")

DOCUMENT_COLUMNS = (
    *("candidate", "split", "task", "document", "metric", "value"),
    *("text", "prompt", "target"),
)
_NO_TEXTS = (None,) * 3

_BRIEF = ("candidate", "origin", "generation", "status", "fitness", "error", "documents", "failure")
"""Columns that fit a terminal."""

_SCORING = "evaluate"
_BUILDING = ("prepare", "merge")
"""Phases of a candidate in the journal that score and build it; the optimizer has the others."""

_LATEST = 4  # candidates that are shown with their fitness or failure


class Facts(dict[str, Any]):
    """Facts by key, as plain JSON values; people read the `texts` of those that have one."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.texts: dict[str, str] = {}

    def add(self, key: str, value: Any, text: str) -> None:
        """Add a fact, with what people read in place of its value."""
        self[key], self.texts[key] = value, text

    def in_words(self) -> dict[str, Any]:
        """Return what people read, without what is not known."""
        return {key: self.texts.get(key, value) for key, value in self.items() if value is not None}


def progress(run: RunFolder) -> Facts:
    """Return what `evomerge status` prints.

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
    tested = to_test(history, ranking)
    done = winner is not None and all("test" in candidate.outcomes for candidate in tested)
    if config.is_study:  # nothing is left to choose and test
        done = len(history.candidates) >= (budget["candidates"] or math.inf)
    done = done and not history.open and not history.lacks_base
    if done and budget["candidates"] and len(history.candidates) < budget["candidates"]:
        bounds = any(budget[name] is not None for name in ("target", "hours", "patience"))
        done = bounds and not run.stop_file.exists()
    statuses = Counter(candidate.status for candidate in history.candidates)
    parents = [baseline for baseline in history.baselines if baseline.label != UNIFORM]
    state = "running" if running else "done" if done else "stopped"
    state = "stopping" if running and run.stop_file.exists() else state
    hours = round(run.timings.hours(), 4)
    facts = Facts(
        run=str(run.path),
        state=state,
        candidates=len(history.candidates),
        **{name: statuses[name] for name in ("scored", "failed", "open")},
        estimated=sum(candidate.is_estimate for candidate in history.candidates),
        budget={name: value for name, value in budget.items() if value is not None},
    )
    facts.add("hours", hours, duration(3600 * hours))
    best = ranking.best(ranking.incumbents(history.candidates))
    facts.add("best", *_with_interval(best, ranking))
    facts.add("best_parent", *_with_interval(ranking.leader(ranking.incumbents(parents)), ranking))
    latest = history.finished[-_LATEST:]
    texts = [_in_words(candidate, ranking) for candidate in reversed(latest)]
    outcomes = [_outcome(candidate, ranking) for candidate in latest]
    facts.add("latest", outcomes, "; ".join(texts) or "-")
    facts["winner"] = None if winner is None else winner.number
    if ranking.has_front:
        facts["front"] = [candidate.number for candidate in front_of(history, ranking)]
    if spent := run.timings.spent():
        facts["seconds"] = {name: round(time.seconds, 1) for name, time in spent.items()}
    if running and (phase := _final_phase(history, events[-1])) is not None:
        facts["phase"] = phase
    if config.space.is_path and (run.path / "best.yaml").exists():
        recipe = Recipe.from_yaml((run.path / "best.yaml").read_text("utf-8"))
        numbers = (one.number for one in history.candidates if one.digest == recipe.digest)
        facts |= {"path": describe(recipe), "path_of": next(numbers, None)}
    if state == "running":  # a search that stops does not go on to its budget
        _add_speed(facts, run, budget)
    if state == "stopped" and not config.is_study:
        facts["go_on"] = f"evomerge resume {shlex.quote(str(run.path))}"
    return facts


def _add_speed(facts: Facts, run: RunFolder, budget: Mapping[str, float | None]) -> None:
    """Add how fast candidates came in this session, and when the search will end."""
    if (rate := run.timings.candidates_per_hour()) is None:
        return
    facts.add("candidates_per_hour", round(rate, 1), f"{round(rate, 1):,.0f}")
    finished = facts["scored"] + facts["failed"]
    candidates, hours = budget["candidates"], budget["hours"]
    left = [] if candidates is None else [(candidates - finished) / rate]
    left += [] if hours is None else [hours - run.timings.hours()]
    if left:
        remaining = round(max(0.0, min(left)), 4)
        facts.add("remaining_hours", remaining, duration(3600 * remaining))


def _with_interval(best: Candidate | None, ranking: Ranking) -> tuple[dict[str, Any] | None, str]:
    """Return a candidate with the 95 % interval of its fitness, and as text; None: no scores."""
    if best is None or (scores := best.scores("search")) is None:
        return None, ""
    value: dict[str, Any] = {"candidate": best.number, "origin": best.name}
    fitness = None
    if best.fitness is not None:
        estimate = fitness_interval(ranking.objectives, scores)
        fitness = replace(estimate, value=best.fitness, is_exact=False)
        value["fitness"] = best.fitness
    value["scores"] = _scores_of(scores, ranking)
    if fitness is not None and fitness.has_interval:
        value |= {"low": fitness.low, "high": fitness.high}
    words, origin = _fitness_in_words(fitness, scores, ranking), short_names([best.name])[best.name]
    return value, f"{words}, candidate {best.number} ({origin})"


def _outcome(candidate: Candidate, ranking: Ranking) -> dict[str, Any]:
    scores = candidate.scores("search")
    return {
        "candidate": candidate.number,
        "fitness": candidate.fitness,
        **({"scores": _scores_of(scores, ranking)} if scores else {}),
        "is_estimate": candidate.is_estimate,
        "failure": candidate.failure,
    }


def _in_words(candidate: Candidate, ranking: Ranking) -> str:
    if (scores := candidate.scores("search")) is None:
        return f"{candidate.number} failed in {candidate.failure}"
    fitness = None if candidate.fitness is None else Interval(candidate.fitness)
    about = "about " if candidate.is_estimate else ""
    return f"{about}{_fitness_in_words(fitness, scores, ranking)} ({candidate.number})"


def _fitness_in_words(fitness: Interval | None, scores: Scores, ranking: Ranking) -> str:
    """Return the fitness with its interval; the scores of a front, and where nats are in it."""
    if fitness is None or has_nats(ranking):
        return _scores_in_words(scores, ranking)
    return fitness.text(factor_of_fitness(ranking.objectives, [scores]))


def points(candidate: Candidate, ranking: Ranking) -> str:
    """Return a candidate's fitness as text; the scores if it has none, or one with nats in it."""
    if (scores := candidate.scores("search")) is None:
        return ""
    if candidate.fitness is None or has_nats(ranking):
        return _scores_in_words(scores, ranking)
    factor = factor_of_fitness(ranking.objectives, [scores])
    return f"{factor * candidate.fitness:.2f}" if factor == 100 else f"{candidate.fitness:.4g}"


def _scores_in_words(scores: Scores, ranking: Ranking) -> str:
    """Return the score of each objective as text: `exact_match 63.3 %, tokens 16.53`."""
    values = _scores_of(scores, ranking)
    return ", ".join(
        f"{name} " + (f"{100 * x:.1f} %" if factor_of([x], key) == 100 else f"{x:.4g}")
        for (key, x), name in zip(values.items(), short_scores(list(values)).values(), strict=True)
    )


def _scores_of(scores: Scores, ranking: Ranking) -> dict[str, float]:
    """Return `task/metric` of each objective -> score, in the metric's own sign."""
    return {objective.key: scores.aggregates[objective.key] for objective in ranking.objectives}


def _final_phase(history: History, last: Event) -> str | None:
    """Return how far the final scores are, as text; None if they are not being made."""
    if last["event"] == "score":
        done = sum(last["split"] in candidate.outcomes for candidate in history.candidates)
        return f"final scores: {done} on {last['split']}"
    return "final scores" if last["event"] in ("complete", "winner", "base") else None


def candidate_rows(
    history: History, objectives: Sequence[Objective], genes: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return one dictionary for each candidate, all with the same keys.

    `error` is the standard error of a fitness that was estimated from some of the search documents;
    then the search scores in the row are estimates too. Genes, by their names in the order of the
    genome, have columns `gene NAME`.
    """
    rows = []
    for candidate in history.candidates:
        scores = candidate.scores("search")
        row: dict[str, Any] = {
            "candidate": candidate.number,
            "origin": candidate.name,
            "generation": candidate.generation,
            "status": candidate.status,
            "fitness": candidate.fitness,
            "error": fitness_error(objectives, scores) if scores else None,
        }
        row |= {f"search {o.key}": search_score(scores, o) if scores else None for o in objectives}
        for split in FINAL_SPLITS:
            final = candidate.scores(split)
            row |= {f"{split} {o.key}": final and final.aggregates[o.key] for o in objectives}
        row["documents"] = sum(scores.fidelity.values()) if scores else 0
        row["winner"] = history.winner is candidate
        if history.front:
            row["front"] = candidate in history.front
        row["digest"] = candidate.digest
        row["failure"] = candidate.failure
        has_genes = len(candidate.genome) == len(genes)  # a baseline has no genes
        genome = candidate.genome if has_genes else [None] * len(genes)
        row |= {f"gene {name}": value for name, value in zip(genes, genome, strict=True)}
        rows.append(row)
    return rows


def with_seconds(
    rows: list[dict[str, Any]], seconds: Mapping[int, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Add the wall-clock seconds of each candidate to rows; None where they are not known.

    `seconds optimizer` is what its proposal took, and the steps of a descent before it.
    """
    for row in rows:
        spent = seconds.get(row["candidate"], {})
        others = [name for name in PHASES if name not in (*_BUILDING, _SCORING)]
        for name, phases in (("merge", _BUILDING), ("score", [_SCORING]), ("optimizer", others)):
            total = round(sum(spent.get(phase, 0.0) for phase in phases), 4)
            row[f"seconds {name}"] = total if spent else None
    return rows


def document_rows(history: History) -> list[tuple[Any, ...]]:
    """Return a row of `DOCUMENT_COLUMNS` for each value of a document; see `Run.documents`."""
    rows = list[tuple[Any, ...]]()
    for candidate, split in product((*history.candidates, *history.bases), SPLITS):
        if (scores := candidate.scores(split)) is None:
            continue
        texts = dict[tuple[str, int], tuple[str | None, ...]]()
        for task, right in scores.right.items():
            texts |= {(task, i): (text, None, None) for i, text in right.items()}
        for example in scores.examples:
            texts[example.task, example.document] = (example.answer, example.prompt, example.target)
        for key, values in scores.values.items():
            task, _, metric = key.rpartition("/")
            for document, value in zip(scores.documents[task], values, strict=True):
                shown = texts.get((task, document), _NO_TEXTS)
                rows.append((candidate.number, split, task, document, metric, value, *shown))
    return rows


def rows_in_per_cent(
    rows: Sequence[dict[str, Any]], objectives: Sequence[Objective]
) -> list[dict[str, Any]]:
    """Return rows for people: shares are in per cent, and the names of their columns say so."""
    shares: set[str] = set()
    for key in score_keys(rows):
        columns = [f"{split} {key}" for split in SPLITS]
        values = [row[name] for row in rows for name in columns if row[name] is not None]
        if values and factor_of(values, key) == 100:
            shares |= set(columns)
    if all(f"search {one.key}" in shares for one in objectives):
        shares |= {"fitness", "error"}

    def cell(name: str, value: Any) -> tuple[str, Any]:
        return (f"{name} in %", value and 100 * value) if name in shares else (name, value)

    return [dict(cell(*one) for one in row.items()) for row in rows]


def score_keys(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the scores `task/metric` that rows have columns of."""
    return [name[7:] for name in (rows[0] if rows else ()) if name.startswith("search ")]


def search_score(scores: Scores, objective: Objective) -> float:
    """Return an objective's score on the search documents, or its estimate, in its own sign."""
    estimate = scores.expected.get(objective.key)
    return scores.aggregates[objective.key] if estimate is None else estimate.value


def brief_rows(
    rows: Sequence[dict[str, Any]], objectives: Sequence[Objective]
) -> list[dict[str, Any]]:
    """Return the columns that fit a terminal, without those that are empty in all rows.

    The winner's status is `winner`, local parents have short names, and shares are in per cent.
    """
    names = short_names(row["origin"] for row in rows)
    heads = {name: name for name in _BRIEF}
    if all(row["fitness"] is None for row in rows):  # in a search for a front
        heads |= {f"search {key}": short for key, short in short_scores(score_keys(rows)).items()}
    brief = []
    for row in rows_in_per_cent(rows, objectives):
        plain = {name: name.removesuffix(" in %") for name in row}
        cells = {n.replace(p, heads[p]): row[n] for n, p in plain.items() if p in heads}
        cells["origin"] = names[row["origin"]]
        if row.get("front"):
            cells["status"] = "knee" if row["winner"] else "front"
        elif row["winner"]:
            cells["status"] = "winner"
        brief.append(cells)
    return filled(brief)


def filled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without the columns that are empty in all of them."""
    used = [name for name in (rows or [{}])[0] if any(row[name] is not None for row in rows)]
    return [{name: row[name] for name in used} for row in rows]


def best_rows(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the `count` best rows, by fitness or, in a search for a front, the first objective."""
    column = "fitness"
    if rows and all(row["fitness"] is None for row in rows):
        column = next(key for key in rows[0] if key.startswith("search "))
    return sorted(rows, key=lambda row: (row[column] is None, -(row[column] or 0)))[:count]
