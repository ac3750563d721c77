"""Printing for all commands: Rich tables on a terminal, plain lines in a pipe."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from evomerge.report.equal_scores import doubt_about_baselines
from evomerge.report.names import short_names
from evomerge.report.workers import workers_in_words
from evomerge.run.activity import WorkerState
from evomerge.run.history import Candidate, History
from evomerge.run.journal import Event
from evomerge.scores import SPLITS, Example, Failure, Scores

if TYPE_CHECKING:
    from evomerge.report.confidence import Estimate
    from evomerge.report.standings import Standings
    from evomerge.searching.ranking import Ranking

log = logging.getLogger(__name__)

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as strict JSON; nan and infinities become null."""
    sys.stdout.write(json.dumps(_strict(value), indent=2, ensure_ascii=False) + "\n")


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table: Rich on a terminal, tab-separated lines in a pipe."""
    if not out.is_terminal:
        for row in (headers, *rows):
            sys.stdout.write("\t".join(row) + "\n")
        return
    table = Table(title=title or None, title_justify="left")
    for index, header in enumerate(headers):
        figures = all(row[index][:1] in "-+.0123456789" for row in rows)
        table.add_column(header, justify="right" if figures else "left", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def print_values(values: Mapping[str, Any]) -> None:
    """Print named values, one on each line."""
    print_table(("what", "value"), [(name, _text(value)) for name, value in values.items()])


def print_progress(values: Mapping[str, Any]) -> None:
    """Print the progress of a search, and what its workers do.

    Args:
        values: named values, as `evomerge.report.progress.progress` returns them.
    """
    workers = [WorkerState(**worker) for worker in values.get("workers", [])]
    if not workers:
        print_values(values)
        return
    summary, rows = workers_in_words(workers, time.time())
    print_values({**values, "workers": f"{len(workers)}: {summary}"})
    print_table(("worker", "place", "does", "for"), rows)


def print_rows(rows: Sequence[Mapping[str, Any]], first: str) -> None:
    """Print records with the same keys as a table.

    Args:
        rows: the records.
        first: the header that is printed if there are no records.
    """
    headers = list(rows[0]) if rows else [first]
    print_table(headers, [[_text(row[name]) for name in headers] for row in rows])


def print_standings(table: Standings) -> None:
    """Print the scores of parents, uniform merge and winner, and compare the winner with each."""
    headers = ["model", *(f"{column} {split}" for column in table.columns for split in SPLITS)]
    rows = []
    for row in table.rows:
        cells = [table.names[row.label]]
        for column in table.columns:
            for split in SPLITS:
                item = row.estimates.get((split, column))
                cells.append(estimate(item, table.factor(column)) if item else "-")
        rows.append(cells)
    print_table(headers, rows, title="standings, shares in %, with 95 % intervals")
    for label, comparison in table.comparisons.items():
        say(f"searched - {table.names[label]} on {table.compared_on}: {comparison.text}")


def print_examples(examples: Iterable[Example]) -> None:
    """Print scored documents with prompt, answer and target."""
    for item in examples:
        out.print("\n".join(_example_lines(item)), markup=False, highlight=False)


def _example_lines(item: Example) -> list[str]:
    values = ", ".join(f"{name} {value:g}" for name, value in item.values.items())
    parsed = [] if item.parsed == item.answer else [f"  parsed: {item.parsed!r}"]
    return [
        f"{item.task}, document {item.document}: {values}",
        f"  prompt: {item.prompt!r}",
        f"  answer: {item.answer!r}",
        *parsed,
        f"  target: {item.target!r}",
    ]


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    return str(value)


def say(message: str) -> None:
    """Print a message to standard error; standard output is for a command's answer only."""
    err.print(message, markup=False, highlight=False)


def warn(notes: Iterable[str]) -> None:
    """Print each different warning once, to standard error."""
    for note in dict.fromkeys(notes):
        say(f"warning: {note}")


class SearchDisplay:
    """Shows a running search: a progress bar on a terminal, one line for each event in a pipe.

    Args:
        total: largest number of candidates; None if the budget has no such bound.
        ranking: decides which candidate is shown as the best.
    """

    def __init__(self, total: int | None, ranking: Ranking) -> None:
        self._ranking = ranking
        self._incumbents: list[Candidate] | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[best]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
        )
        self._task: TaskID = self._progress.add_task("starting", total=total, best="")
        self._preparing: TaskID | None = None

    def warn_of_baselines(self, history: History, event: Event) -> None:
        """Warn before the first candidate of the optimizer if the baselines tell nothing."""
        if event["event"] != "ask" or event["candidate"] != len(history.baselines):
            return
        doubt = doubt_about_baselines(history)
        if doubt is not None:
            message, examples = doubt
            log.warning("%s", message)
            lines = [line for item in examples for line in _example_lines(item)]
            say("\n".join([f"warning: {message}", *lines]))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the progress bar while the block runs."""
        if not err.is_terminal:
            yield
            return
        with self._progress:
            yield

    def _best(self, history: History, event: Event) -> str:
        """Return the best candidate after this event as text; empty while none is scored."""
        if self._incumbents is None:
            new = history.candidates
        else:
            # An event changes one candidate at most, so the others are not ranked again.
            new = [history.candidates[event["candidate"]]] if "candidate" in event else []
        for item in new:
            self._incumbents = self._ranking.incumbents([*(self._incumbents or []), item])
        if not self._incumbents:
            return ""
        return f"best {self._incumbents[0].fitness:.4f} (candidate {self._incumbents[0].number})"

    def observe(self, history: History, event: Event) -> None:
        """Update the display after one event of the search."""
        if event["event"] == "ask":
            return
        if event["event"] == "preparing":
            self._show_preparation(event)
            return
        best = self._best(history, event)
        if err.is_terminal:
            stage = "searching" if event["event"] == "tell" else "final scores"
            self._progress.update(
                self._task, completed=len(history.told), best=best, description=stage
            )
            return
        if event["event"] == "tell":
            say(f"{describe(history, event['candidate'])}; {best}".rstrip("; "))
        elif event["event"] == "complete":
            told = describe(history, event["candidate"])
            say(f"{told} on all search documents, as every finalist")
        elif event["event"] == "score":
            say(f"{_named(history, event['candidate'])} scored on {event['split']}")
        elif event["event"] == "winner":
            say(f"candidate {event['candidate']} wins on the validation documents")

    def _show_preparation(self, event: Event) -> None:
        """Show how far a preparation is: a second bar on a terminal, two lines in a pipe."""
        method, done, total = event["method"], event["done"], event["total"]
        is_first = self._preparing is None
        if self._preparing is None:
            self._preparing = self._progress.add_task(f"preparing {method}", best="tensors")
        self._progress.update(self._preparing, completed=done, total=total)
        if is_first and not err.is_terminal:
            say(f"preparing {method} for the first merges with it: {total} tensors")
        if done == total:
            self._progress.remove_task(self._preparing)
            self._preparing = None
            if not err.is_terminal:
                say(f"prepared {method} in {event['seconds']:.0f} s")


def describe(history: History, number: int) -> str:
    """Return one line that says what came out of a candidate on the search documents."""
    candidate = history.candidates[number]
    outcome = candidate.outcomes.get("search")
    head = _named(history, number)
    if isinstance(outcome, Failure):
        return f"{head} failed in {outcome.stage}: {outcome.reason}"
    if isinstance(outcome, Scores) and candidate.fitness is not None:
        documents = sum(outcome.fidelity.values())
        source = f", estimated from {documents} documents" if candidate.is_estimate else ""
        return f"{head} {candidate.fitness:.4f}{source}"
    return f"{head} open"


def _named(history: History, number: int) -> str:
    """Return a candidate's number and name; local parents have the names of their folders."""
    name = history.candidates[number].name
    names = short_names(item.name for item in history.baselines)
    return f"candidate {number} ({names.get(name, name)})"


def estimate(item: Estimate, factor: float) -> str:
    """Return an estimate as text, such as `87.0 [84.8, 88.9]`, without an unknown interval.

    Args:
        item: the value and its interval.
        factor: number that all of them are multiplied by, 100 for a share in per cent.
    """
    return " ".join(filter(None, item.texts(factor)))
