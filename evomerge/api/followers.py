"""What follows a search: the progress bar, and experiment trackers (Trackio, Weights & Biases)."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Self

from rich import progress
from rich.console import Console

from evomerge.errors import InputError, one_line
from evomerge.report.facts import FINAL_SPLITS, points, search_score
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.journal import Event
from evomerge.run.logbook import Follower
from evomerge.run.ranking import Ranking, measured
from evomerge.scores import fitness_error
from evomerge.words import storable

PROJECT = "evomerge"
"""The project of all searches."""


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
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(24),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=2,
            redirect_stdout=console is not None,  # in a program of others, they stay as they are
            redirect_stderr=console is not None,
        )
        done = len(history.finished) if history else 0
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
            self._update(self.best or "searching", self._total, len(history.finished))
        elif kind == "finals":
            self._update(f"final scores ({event['purpose']})", event["total"], 0)
        elif kind in ("score", "complete", "base"):
            self._progress.advance(self._task)
        if self._cell is not None:
            self._cell.update(self._progress)

    @property
    def best(self) -> str:
        """The best fitness so far, or the size of the front, in words; "" if none is scored."""
        if front := self.ranking.front(self.incumbents):
            return f"{len(front)} on the front"
        first = self.ranking.best(self.incumbents)
        return "" if first is None else f"best {points(first, self.ranking)}"

    def _update(self, words: str, total: int | None, done: int) -> None:
        self._progress.update(self._task, description=words, total=total, completed=done)


def check_installed(name: str) -> None:
    """Check that the package of a tracker is there, without importing it; InputError: it is not."""
    spec = find_spec(name)
    # The folder `wandb` that wandb writes into is found as a package without a file.
    if spec is None or spec.origin is None:
        raise InputError(
            f"--track is {name}, but {name} is not installed; install it with "
            f"`pip install 'evomerge[{name}]'`."
        )


@contextmanager
def tracked(
    name: str | None, run: RunFolder, ranking: Ranking, say: Callable[[str], None]
) -> Iterator[list[Follower]]:
    """Log what the block scores to a tracker (None: to none), and yield its followers.

    `say` is told where people find it, and once if it fails and is not used any more.
    """
    if name is None:
        yield []
        return
    tracker: Any = None
    shown = measured(ranking)

    @contextmanager
    def safely() -> Iterator[None]:
        nonlocal tracker
        try:
            with redirect_stdout(io.StringIO()):  # a command's answer alone is printed there
                yield
        except (Exception, SystemExit) as error:
            tracker = None
            say(f"warning: {name} failed ({one_line(error)}); the search goes on without it.")

    def observe(history: History, event: Event) -> None:
        if tracker is None or event["event"] != "tell":
            return
        with safely():
            candidate = history.candidates[event["candidate"]]
            best = ranking.incumbents(history.candidates)
            step: dict[str, Any] = {
                "candidate": candidate.number,
                "fitness": candidate.fitness,
                "best_fitness": best[0].fitness if best else None,
                "failed": sum(one.status == "failed" for one in history.candidates),
            }
            if scores := candidate.scores("search"):
                step |= {f"search/{o.key}": search_score(scores, o) for o in shown}
                step["documents"] = sum(scores.fidelity.values())
                step["error"] = fitness_error(ranking.objectives, scores)
            step |= {f"seconds/{phase}": s for phase, s in event.get("seconds", {}).items()}
            tracker.log(storable({k: value for k, value in step.items() if value is not None}))

    with safely():
        tracker = _begin(name, run)
        say(f"logging to {name}, project {PROJECT}, run {run.path.resolve().name}")
    try:
        yield [observe]
    finally:
        if tracker is not None:
            with safely():
                if (winner := History(run.events()).winner) is not None:
                    result: dict[str, Any] = {"winner": winner.number}
                    for split in FINAL_SPLITS:
                        if scores := winner.scores(split):
                            result |= {f"{split}/{o.key}": scores.aggregates[o.key] for o in shown}
                    tracker.log(storable(result))
                import_module(name).finish()  # trackio would print at exit if the run alone ended


_QUIET: dict[str, Any] = {"console": "off", "silent": True, "x_save_requirements": False}
_QUIET |= {"disable_code": True, "disable_git": True, "x_disable_machine_info": True}
_QUIET |= {"x_disable_meta": True, "x_disable_stats": True}
"""Settings of wandb: it says nothing, and sends nothing but what is logged."""


def _begin(name: str, run: RunFolder) -> Any:
    """Return a new run of a tracker, on this machine unless the environment says otherwise."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
    module = import_module(name)
    options: dict[str, Any] = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
    if name == "wandb":
        settings = module.Settings(**_QUIET)
        options = {"mode": os.environ.get("WANDB_MODE", "offline"), "settings": settings}
    about = storable({"name": run.path.resolve().name, "config": run.manifest()["config"]})
    return module.init(project=PROJECT, **about, **options)
