"""The progress bar of a search, on a terminal and in notebooks."""

from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from evomerge.report.progress import points
from evomerge.run.history import History
from evomerge.run.journal import Event
from evomerge.run.ranking import Ranking


class SearchBar:
    """Shows how many of `total` candidates are scored (None: no such bound), and the best so far.

    `observe` is a follower of the search, and `incumbents` are the leaders of what it was told. In
    a file the bar is one line, at the end.
    """

    def __init__(
        self,
        ranking: Ranking,
        total: float | None,
        history: History | None = None,
        console: Console | None = None,
    ) -> None:
        self.ranking, self._total = ranking, None if total is None else int(total)
        self.incumbents = ranking.incumbents(history.candidates if history else [])
        self._console = console or Console(stderr=True)
        columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        words = TextColumn("{task.description}", markup=False)
        self._progress = Progress(
            words,
            *columns,
            console=self._console,
            refresh_per_second=2,
            redirect_stdout=console is not None,  # in a program of others, they stay as they are
            redirect_stderr=console is not None,
        )
        done = len(history.told) if history else 0
        self._task = self._progress.add_task("", total=None)
        self._update(self.best or "searching", self._total, done)
        self._cell: Any = None

    def __enter__(self) -> Self:
        if self._console.is_jupyter:  # where rich itself wants ipywidgets
            from IPython.display import display

            self._cell = display(self._progress, display_id=True)
        else:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def observe(self, history: History, event: Event) -> None:
        """Move the bar by what an event means."""
        kind = event["event"]
        if kind in ("tell", "complete"):
            changed = history.candidates[event["candidate"]]
            self.incumbents = self.ranking.incumbents([*self.incumbents, changed])
        if kind == "tell":
            self._update(self.best or "searching", self._total, len(history.told))
        elif kind == "finals":
            self._update(f"final scores ({event['purpose']})", event["total"], 0)
        elif kind in ("score", "complete", "base"):
            self._progress.advance(self._task)
        if self._cell is not None:
            self._cell.update(self._progress)

    @property
    def best(self) -> str:
        """The best fitness so far, or the size of the front, in words; "" if none is scored."""
        if self.ranking.has_front and self.incumbents:
            return f"{len(self.incumbents)} on the front"
        first = self.ranking.best(self.incumbents)
        return "" if first is None else f"best {points(first, self.ranking)}"

    def _update(self, words: str, total: int | None, done: int) -> None:
        self._progress.update(self._task, description=words, total=total, completed=done)
