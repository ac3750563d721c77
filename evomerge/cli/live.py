"""How far a search is: lines and a bar while it runs here, and `evomerge status`."""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.live import Live

from evomerge.api.followers import SearchBar
from evomerge.cli import terminal
from evomerge.report.confidence import Interval, factor_of
from evomerge.report.progress import in_words as scores_in_words
from evomerge.report.progress import points, progress
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.journal import Event
from evomerge.run.ranking import Ranking, is_nats
from evomerge.scores import Failure
from evomerge.words import duration, short_names

log = logging.getLogger(__name__)

_PAUSE = 2.0
_INVALID = "[invalid]"  # what lm-eval's filter makes of an answer that it cannot parse
_NEWS = ("run", "state", "candidates", "scored", "failed", "best", "winner", "phase")


def in_words(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values of `evomerge.report.progress.progress` with names and texts for people."""
    words = {name: _in_words(name, it) for name, it in values.items() if it is not None}
    return {name: terminal.text_of(value) for name, value in terminal.spoken(words).items()}


def _in_words(name: str, value: Any) -> Any:
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
        case _:
            return value


def _scores_in_words(item: Mapping[str, Any]) -> str:
    """Return the fitness of a candidate with its interval; of a front, its scores."""
    scores = item["scores"]
    fitness = item.get("fitness")
    # A mean is below all of the scores only if signs are turned in it, since less is better.
    if fitness is None or any(map(is_nats, scores)) or fitness < min(scores.values()):
        return scores_in_words(scores)
    interval = Interval(fitness, item.get("low", math.nan), item.get("high", math.nan))
    return interval.text(min(factor_of([value], key) for key, value in scores.items()))


def _latest_in_words(item: Mapping[str, Any]) -> str:
    if item["failure"] is not None:
        return f"{item['candidate']} failed in {item['failure']}"
    about = "about " if item["is_estimate"] else ""
    return f"{about}{_scores_in_words(item)} ({item['candidate']})"


def _states(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the progress of a run again and again to its end."""
    while True:
        yield (values := progress(RunFolder(directory)))
        if values["state"] not in ("running", "stopping"):
            return
        time.sleep(_PAUSE)


def news(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the progress of a run whenever something has changed, to its end."""
    before = None
    for values in _states(directory):
        state = [values.get(key) for key in _NEWS]
        if state != before:
            yield values
        before = state


def redraw(directory: Path) -> None:
    """Show the progress on a terminal until the search ends."""
    with Live(console=terminal.out, auto_refresh=False) as live:
        for values in _states(directory):
            table = terminal.make_table(terminal.VALUES, [*in_words(values).items()])
            live.update(table, refresh=True)


class SearchDisplay:
    """Says what comes out of each candidate; a terminal has a bar of `total` candidates, too."""

    def __init__(
        self, total: float | None, ranking: Ranking, history: History | None = None
    ) -> None:
        self._bar = SearchBar(ranking, total, history, terminal.err)
        self._done = len(history.told) if history else 0

    def begin(self) -> AbstractContextManager[object]:
        """Say what is done before the first candidate, and return what shows the bar."""
        what = f"replaying {self._done} candidates" if self._done else "loading models and tasks"
        terminal.say(what)
        return self._bar if terminal.err.is_terminal else nullcontext()

    def observe(self, history: History, event: Event) -> None:
        """Say what an event means, and move the bar."""
        number, ranking = event.get("candidate", 0), self._bar.ranking
        self._bar.observe(history, event)
        match event["event"]:
            case "ask" if number == len(history.baselines):  # the first one of the optimizer
                if doubt := doubt_about_baselines(history):
                    log.warning("%s", doubt[0])
                    for line in (f"warning: {doubt[0]}", *doubt[1]):
                        terminal.say(line)
            case "tell":
                best = self._bar.best and f"; {self._bar.best}"
                leader = ranking.leader(self._bar.incumbents)
                who = f" (candidate {leader.number})" if leader else ""
                terminal.say(f"{_described(history, number, ranking)}{best}{who}")
            case "complete":
                described = _described(history, number, ranking)
                terminal.say(f"{described} on all search documents, as every finalist")
            case "score":
                terminal.say(f"{named(history, number)} scored on {event['split']}")
            case "base":
                name = short_names([event["label"]])[event["label"]]
                failure = event.get("failure")
                how = f"failed on test: {failure['reason']}" if failure else "scored on test"
                terminal.say(f"the base {name} {how}")
            case "winner":
                front = ", ".join(map(str, event.get("front", ())))
                what = f"candidates {front} are the front" if front else f"candidate {number} wins"
                terminal.say(f"{what} on the validation documents")


def doubt_about_baselines(history: History) -> tuple[str, list[str]] | None:
    """Return a warning about the baselines, and lines of examples; None if there is no doubt.

    Where all score the same, mostly the task cannot read their answers, or they do not know the
    format of the prompt.
    """
    scores = [item.scores("search") for item in history.baselines]
    examples = [item for one in scores if one is not None for item in one.examples]
    some = scores[-1].examples[:3] if scores and scores[-1] else ()
    lines = [line for item in some for line in terminal.example_lines(item)]
    if examples and all(item.parsed == _INVALID for item in examples):
        return "the task's filter cannot parse the answers of the baselines", lines
    text = "all baselines have the same fitness, so it may not show which model is better; compare "
    values = [item.values for item in history.baselines if item.values is not None]
    is_equal = len(values) > 1 and len(set(values)) == 1
    return (f"{text}answers and targets", lines) if is_equal else None


def _described(history: History, number: int, ranking: Ranking) -> str:
    candidate = history.candidates[number]
    outcome, head = candidate.outcomes["search"], named(history, number)
    if isinstance(outcome, Failure):
        return f"{head} failed in {outcome.stage}: {outcome.reason}"
    documents = sum(outcome.fidelity.values())
    source = f", estimated from {documents} documents" if candidate.is_estimate else ""
    return f"{head} {points(candidate, ranking)}{source}"


def named(history: History, number: int) -> str:
    """Return a candidate's number and name; local parents have the names of their folders."""
    name = history.candidates[number].name
    names = short_names(item.name for item in history.baselines)
    return f"candidate {number} ({names.get(name, name)})"
