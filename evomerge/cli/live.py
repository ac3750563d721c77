"""What a running search shows: a panel that is redrawn on a terminal, lines in a pipe."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from evomerge.cli.terminal import err, estimate, example_lines, say
from evomerge.errors import without_controls
from evomerge.report.confidence import factor_of, fitness_interval
from evomerge.report.documents import doubt_about_baselines
from evomerge.report.progress import LATEST
from evomerge.report.words import duration, short_names, short_scores
from evomerge.run.history import Candidate, History
from evomerge.run.lines import Event
from evomerge.run.timings import RECENT
from evomerge.scores import Failure, Objective, Scores
from evomerge.searching.ranking import Ranking
from evomerge.space.baselines import AVERAGES

log = logging.getLogger(__name__)


class SearchDisplay:
    """Shows a running search.

    Args:
        total: largest number of candidates; None if the budget has no such bound.
        ranking: what compares the candidates of the search.
        history: the state of the run before this session.
    """

    def __init__(self, total: int | None, ranking: Ranking, history: History | None = None) -> None:
        self._ranking = ranking
        self._history = history or History()
        self._incumbents = self._ranking.incumbents(self._history.candidates)
        self._times: deque[float] = deque(maxlen=RECENT)
        self._intervals: dict[int, str] = {}
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
        self._total = total

    def warn_of_baselines(self, history: History, event: Event) -> None:
        """Warn before the first candidate of the optimizer if the baselines tell nothing."""
        if event["event"] != "ask" or event["candidate"] != len(history.baselines):
            return
        doubt = doubt_about_baselines(history)
        if doubt is not None:
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
            self._intervals.pop(changed.number, None)
        if event["event"] == "tell":
            self._times.append(time.monotonic())
        if err.is_terminal:
            self._update_bar(event)
        else:
            self._say(event)

    def _update_bar(self, event: Event) -> None:
        if self._finals is None or event["event"] in ("ask", "tell"):
            self._bar.update(
                self._task,
                completed=len(self._history.told),
                total=self._total,
                description="searching",
                speed=self._speed(),
            )
            return
        self._finals_done += event["event"] in ("score", "complete")
        purpose, total = self._finals
        what = "estimates completed" if purpose == "complete" else f"final scores on {purpose}"
        self._bar.update(
            self._task, completed=self._finals_done, total=total, description=what, speed=""
        )

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
        lines = Table.grid(padding=(0, 2))
        lines.add_column(style="dim", no_wrap=True, min_width=len("best parent"))
        lines.add_column(overflow="ellipsis", no_wrap=True)
        for name, words in self._lines():
            lines.add_row(name, Text(without_controls(words)))
        return Group(self._bar, lines)

    def _lines(self) -> Iterator[tuple[str, str]]:
        history = self._history
        if self._preparing is not None:
            method, done, total = self._preparing
            yield "preparing", f"{method}: {done} of {total} tensors"
        best = self._ranking.best(self._incumbents)
        if self._ranking.has_front and self._incumbents:
            yield "front", f"{len(self._incumbents)} candidates"
        if best is not None:
            yield "knee" if self._ranking.has_front else "best", self._with_interval(best)
        parents = [item for item in history.baselines if item.label not in AVERAGES]
        best_parents = self._ranking.incumbents(parents)
        if best_parents and best_parents[0] is not best and not self._ranking.has_front:
            yield "best parent", self._with_interval(best_parents[0])
        latest = [item for item in history.told[-LATEST:] if item.values is not None]
        if latest:
            yield "latest", ", ".join(map(self._brief, reversed(latest)))
        failed = [item for item in history.told if item.status == "failed"]
        if failed:
            last = describe(history, failed[-1].number, ()).removeprefix("candidate ")
            yield "failed", f"{len(failed)}; the last one: {last}"

    def _with_interval(self, candidate: Candidate) -> str:
        if candidate.number not in self._intervals:
            scores = candidate.scores("search")
            words = "-"
            if scores is not None and self._ranking.has_front:
                words = values_in_words(scores, self._ranking.objectives)
            elif scores is not None:
                found = fitness_interval(self._ranking.objectives, scores)
                words = estimate(found, factor_of([found.value]))
            self._intervals[candidate.number] = words
        return f"{self._intervals[candidate.number]}  {named(self._history, candidate.number)}"

    def _brief(self, candidate: Candidate) -> str:
        scores = candidate.scores("search")
        if candidate.fitness is None and scores is not None:
            return f"{values_in_words(scores, self._ranking.objectives)} ({candidate.number})"
        about = "about " if candidate.is_estimate else ""
        return f"{about}{_points(candidate, 1)} ({candidate.number})"

    def _say(self, event: Event) -> None:
        """Print the line of an event."""
        history = self._history
        if event["event"] == "tell":
            best = ""
            first = self._ranking.best(self._incumbents)
            if self._ranking.has_front and self._incumbents:
                best = f"; {len(self._incumbents)} on the front"
            elif first is not None:
                best = f"; best {_points(first)} (candidate {first.number})"
            say(describe(history, event["candidate"], self._ranking.objectives) + best)
        elif event["event"] == "complete":
            told = describe(history, event["candidate"], self._ranking.objectives)
            say(f"{told} on all search documents, as every finalist")
        elif event["event"] == "score":
            say(f"{named(history, event['candidate'])} scored on {event['split']}")
        elif event["event"] == "winner":
            front = "".join(f"{number}, " for number in event.get("front", ()))
            wins = f"candidate {event['candidate']} wins"
            what = f"candidates {front.rstrip(', ')} are the front" if front else wins
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


def describe(history: History, number: int, objectives: Sequence[Objective]) -> str:
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
        return f"{head} {values_in_words(outcome, objectives)}"
    return f"{head} open"


def values_in_words(scores: Scores, objectives: Sequence[Objective]) -> str:
    """Return the value of each objective as text, in the metric's own sign."""
    names = short_scores([item.key for item in objectives])
    return ", ".join(f"{names[i.key]} {scores.aggregates[i.key]:.4g}" for i in objectives)


def _points(candidate: Candidate, decimals: int = 2) -> str:
    """Return the fitness as it is in all tables: in per cent if it is a share."""
    value = candidate.fitness or 0.0
    return f"{factor_of([value]) * value:.{decimals}f}"


def named(history: History, number: int) -> str:
    """Return a candidate's number and name; local parents have the names of their folders."""
    name = history.candidates[number].name
    names = short_names(item.name for item in history.baselines)
    return f"candidate {number} ({names.get(name, name)})"
