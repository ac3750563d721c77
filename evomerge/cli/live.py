"""How far a search is: lines and a bar while it runs here, and `evomerge status`."""

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from rich.live import Live

from evomerge.api.followers import SearchBar
from evomerge.cli import terminal
from evomerge.report.facts import Facts, points, progress
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.journal import Event
from evomerge.run.ranking import Ranking
from evomerge.scores import Failure
from evomerge.words import short_names

log = logging.getLogger(__name__)

_PAUSE = 2.0
_INVALID = "[invalid]"  # what lm-eval's filter makes of an answer that it cannot parse
_NEWS = ("run", "state", "candidates", "scored", "failed", "best", "winner", "phase")


def _states(directory: Path) -> Iterator[Facts]:
    """Yield the progress of a run again and again to its end."""
    while True:
        yield (facts := progress(RunFolder(directory)))
        if facts["state"] not in ("running", "stopping"):
            return
        time.sleep(_PAUSE)


def news(directory: Path) -> Iterator[Facts]:
    """Yield the progress of a run whenever something has changed, to its end."""
    before = None
    for facts in _states(directory):
        state = [facts.get(key) for key in _NEWS]
        if state != before:
            yield facts
        before = state


def redraw(directory: Path) -> None:
    """Show the progress on a terminal until the search ends."""
    with Live(console=terminal.out, auto_refresh=False) as live:
        for facts in _states(directory):
            live.update(terminal.make_table(*terminal.spoken(facts.in_words())), refresh=True)


class SearchDisplay:
    """Says what comes out of each candidate; a terminal has a bar of `total` candidates, too."""

    def __init__(
        self, total: float | None, ranking: Ranking, history: History | None = None
    ) -> None:
        self._bar = SearchBar(ranking, total, history, terminal.err)
        self._done = len(history.finished) if history else 0

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
    names = short_names(baseline.name for baseline in history.baselines)
    return f"candidate {number} ({names.get(name, name)})"
