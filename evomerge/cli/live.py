"""How far a search is: its panel or lines while it runs here, and `evomerge status`.

Both say the same in the same words (see `in_words`).
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from evomerge.cli.terminal import (
    err,
    estimate,
    example_lines,
    make_table,
    out,
    print_table,
    say,
    spoken,
    text_of,
)
from evomerge.errors import without_controls
from evomerge.report.confidence import Interval, factor_of
from evomerge.report.documents import doubt_about_baselines
from evomerge.report.progress import leaders, progress, workers_in_words
from evomerge.report.words import duration, short_names, short_scores
from evomerge.run.activity import WorkerState
from evomerge.run.folder import RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.lines import Event
from evomerge.run.timings import RECENT
from evomerge.scores import Failure, Objective, Scores
from evomerge.searching.ranking import Ranking

log = logging.getLogger(__name__)

_PAUSE = 2.0
_PATIENCE = 10.0  # seconds in which a search that has just been started takes its lock


def in_words(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values of `evomerge.report.progress.progress` with names and texts for people."""
    words = {name: _in_words(name, value) for name, value in values.items()}
    return {name: text_of(value) for name, value in spoken(words).items()}


def _in_words(name: str, value: Any) -> Any:
    if value is None:
        return value
    match name:
        case "hours" | "remaining_hours":
            return duration(3600 * value)
        case "candidates_per_hour":
            return f"{value:,.0f}"
        case "latest":
            return "; ".join(map(_latest_in_words, reversed(value))) or None
        case "best" | "best_parent":
            origin = short_names([value["origin"]])[value["origin"]]
            return f"{_scores_in_words(value)}, candidate {value['candidate']} ({origin})"
        case "workers":
            return f"{len(value)}: {_workers(value)[0]}"
        case _:
            return value


def _scores_in_words(item: Mapping[str, Any]) -> str:
    """Return the fitness of a candidate with its interval; of a front, its scores."""
    if "scores" in item:
        return _values_in_words(item["scores"])
    found = Interval(item["fitness"], item.get("low", math.nan), item.get("high", math.nan))
    return estimate(found, factor_of([found.value]))


def _latest_in_words(item: Mapping[str, Any]) -> str:
    if item["failure"] is not None:
        return f"{item['candidate']} failed in {item['failure']}"
    if "scores" not in item and item["fitness"] is None:  # an event that no search writes
        return f"- ({item['candidate']})"
    about = "about " if item["is_estimate"] else ""
    return f"{about}{_scores_in_words(item)} ({item['candidate']})"


def _values_in_words(values: Mapping[str, float]) -> str:
    """Return scores by objective as text, in the metric's own sign."""
    names = short_scores(list(values))
    return ", ".join(f"{names[key]} {value:.4g}" for key, value in values.items())


def states(run: RunFolder) -> Iterator[dict[str, Any]]:
    """Yield the progress of a run again and again to its end; wait for one that has just begun."""
    values, end = progress(run), time.monotonic() + _PATIENCE
    while values["state"] == "stopped" and not values["candidates"] and time.monotonic() < end:
        time.sleep(0.2)
        values = progress(run)
    yield values
    while values["state"] == "running":
        time.sleep(_PAUSE)
        values = progress(run)
        yield values


def watch(run: RunFolder) -> None:
    """Show the progress until the search ends: redrawn on a terminal, its changes in a pipe."""
    if out.is_terminal:
        with Live(console=out, auto_refresh=False) as live:
            for values in states(run):
                live.update(Group(*(make_table(*table) for table in _tables(values))), refresh=True)
        return
    shown: dict[str, Any] = {}
    for values in states(run):
        if not shown:
            print_progress(values)
        keys = ("state", "candidates", "scored", "failed", "best", "winner", "phase")
        changed = {key: values.get(key) for key in keys if values.get(key) != shown.get(key)}
        if shown and changed:
            print_table(*_tables(changed)[0])
        shown = values


def print_progress(values: Mapping[str, Any]) -> None:
    """Print the progress of a search, and what its workers do."""
    for headers, rows in _tables(values):
        print_table(headers, rows)


def _tables(values: Mapping[str, Any]) -> list[tuple[Sequence[str], Sequence[Sequence[str]]]]:
    """Return the headers and rows of the values, and of the workers if there are any."""
    what = (("what", "value"), list(in_words(values).items()))
    rows = _workers(values.get("workers", []))[1]
    return [what, (("worker", "place", "does", "for"), rows)] if rows else [what]


def _workers(workers: Sequence[Mapping[str, Any]]) -> tuple[str, list[list[str]]]:
    return workers_in_words([WorkerState(**worker) for worker in workers], time.time())


class SearchDisplay:
    """Shows a search of so many candidates (None: no bound) that runs in this process."""

    def __init__(self, total: int | None, ranking: Ranking, history: History | None = None) -> None:
        self._total, self._ranking, self._history = total, ranking, history or History()
        self._incumbents = ranking.incumbents(self._history.candidates)
        self._times: deque[float] = deque(maxlen=RECENT)
        self._preparing: tuple[str, int, int] | None = None
        self._finals: tuple[str, int] | None = None
        self._finals_done = 0
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}", markup=False),
            TimeElapsedColumn(),
            console=err,
        )
        done = len(self._history.told)
        stage = f"replaying {done} candidates" if done else "loading models and tasks"
        self._task = self._bar.add_task(stage, total=total, completed=done, speed="")

    def warn_of_baselines(self, history: History, event: Event) -> None:
        """Warn before the first candidate of the optimizer if the baselines tell nothing."""
        if event["event"] != "ask" or event["candidate"] != len(history.baselines):
            return
        if doubt := doubt_about_baselines(history):
            message, examples = doubt
            log.warning("%s", message)
            lines = [line for item in examples for line in example_lines(item)]
            say("\n".join([f"warning: {message}", *lines]))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the panel while the block runs; in a pipe, one line that it begins."""
        if not err.is_terminal:
            say(str(self._bar.tasks[0].description))
            yield
            return
        with Live(get_renderable=self._panel, console=err, refresh_per_second=2):
            yield

    def observe(self, history: History, event: Event) -> None:
        """Update the display after one event of the search."""
        self._history = history
        if event["event"] == "preparing":
            self._note_preparation(event)
            return
        if event["event"] == "finals":
            self._finals = (str(event["purpose"]), int(event["total"]))
            self._finals_done = 0
        if "candidate" in event and event["event"] != "ask":
            changed = history.candidates[event["candidate"]]
            self._incumbents = self._ranking.incumbents([*self._incumbents, changed])
        if event["event"] == "tell":
            self._times.append(time.monotonic())
        if err.is_terminal:
            self._update_bar(event)
        else:
            self._say(event)

    def _update_bar(self, event: Event) -> None:
        what, done, total, speed = "searching", len(self._history.told), self._total, ""
        if self._finals is None or event["event"] in ("ask", "tell"):
            speed = self._speed()
        else:
            self._finals_done += event["event"] in ("score", "complete")
            done, (purpose, total) = self._finals_done, self._finals
            what = "estimates completed" if purpose == "complete" else f"final scores on {purpose}"
        self._bar.update(self._task, description=what, completed=done, total=total, speed=speed)

    def _speed(self) -> str:
        """Return the candidates an hour, and when all are scored, as text."""
        if len(self._times) < 2 or self._times[-1] <= self._times[0]:
            return ""
        per_second = (len(self._times) - 1) / (self._times[-1] - self._times[0])
        hourly = f"{3600 * per_second:,.0f} an hour"
        left = (self._total or 0) - len(self._history.told)
        return f"{hourly}, {duration(left / per_second)} left" if left > 0 else hourly

    def _panel(self) -> RenderableType:
        """Return the bar, the best candidate beside the best parent, failures, the latest."""
        values: dict[str, Any] = {}
        if self._preparing is not None:
            method, done, total = self._preparing
            values["preparing"] = f"{method}: {done} of {total} tensors"
        if self._ranking.has_front and self._incumbents:
            values["front"] = f"{len(self._incumbents)} candidates"
        values |= leaders(self._history, self._ranking, self._incumbents)
        values["failed"] = sum(item.status == "failed" for item in self._history.told) or None
        lines = Table.grid(padding=(0, 2))
        lines.add_column(style="dim", no_wrap=True, min_width=len("best parent"))
        lines.add_column(overflow="ellipsis", no_wrap=True)
        for name, words in in_words({k: v for k, v in values.items() if v}).items():
            lines.add_row(name, Text(without_controls(words)))
        return Group(self._bar, lines)

    def _say(self, event: Event) -> None:
        """Print the line of an event."""
        history = self._history
        match event["event"]:
            case "tell":
                best, first = "", self._ranking.best(self._incumbents)
                if self._ranking.has_front and self._incumbents:
                    best = f"; {len(self._incumbents)} on the front"
                elif first is not None:
                    best = f"; best {_points(first)} (candidate {first.number})"
                say(_described(history, event["candidate"], self._ranking.objectives) + best)
            case "complete":
                told = _described(history, event["candidate"], self._ranking.objectives)
                say(f"{told} on all search documents, as every finalist")
            case "score":
                say(f"{named(history, event['candidate'])} scored on {event['split']}")
            case "winner":
                front = ", ".join(map(str, event.get("front", ())))
                wins = f"candidate {event['candidate']} wins"
                what = f"candidates {front} are the front" if front else wins
                say(f"{what} on the validation documents")

    def _note_preparation(self, event: Event) -> None:
        """Note how far a preparation is; in a pipe, print when it begins and ends."""
        method, done, total = event["method"], event["done"], event["total"]
        is_first = self._preparing is None
        self._preparing = None if done == total else (method, done, total)
        if err.is_terminal:
            return
        if is_first:
            say(f"preparing {method} for the first merges with it: {total} tensors")
        if done == total:
            say(f"prepared {method} in {event['seconds']:.0f} s")


def _described(history: History, number: int, objectives: Sequence[Objective]) -> str:
    """Return one line that says what came out of a candidate on the search documents."""
    candidate = history.candidates[number]
    outcome = candidate.outcomes.get("search")
    head = named(history, number)
    if isinstance(outcome, Failure):
        return f"{head} failed in {outcome.stage}: {outcome.reason}"
    if isinstance(outcome, Scores) and candidate.fitness is not None:
        documents = sum(outcome.fidelity.values())
        source = f", estimated from {documents} documents" if candidate.is_estimate else ""
        return f"{head} {_points(candidate)}{source}"
    if isinstance(outcome, Scores) and candidate.values is not None:
        return f"{head} {_values_in_words({o.key: outcome.aggregates[o.key] for o in objectives})}"
    return f"{head} open"


def _points(candidate: Candidate) -> str:
    """Return the fitness as it is in all tables: in per cent if it is a share."""
    value = candidate.fitness or 0.0
    return f"{factor_of([value]) * value:.2f}"


def named(history: History, number: int) -> str:
    """Return a candidate's number and name; local parents have the names of their folders."""
    name = history.candidates[number].name
    names = short_names(item.name for item in history.baselines)
    return f"candidate {number} ({names.get(name, name)})"
