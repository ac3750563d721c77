"""Logs a running search to an experiment tracker: Trackio or Weights & Biases."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any, TypeAlias

from evomerge.errors import InputError, one_line
from evomerge.report.rows import FINAL_SPLITS, search_score
from evomerge.report.words import storable
from evomerge.run.folder import CONFIG, FROZEN, MANIFEST, STAGES, RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.lines import Event
from evomerge.run.logbook import PASSING, Follower
from evomerge.searching.ranking import Ranking, measured

log = logging.getLogger(__name__)

PROJECT = "evomerge"
"""The project of all searches."""

START, END = 30.0, 120.0
"""Seconds that wandb may take to open a run and to upload its last data."""


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
    """Log a search to a tracker (None: to none) while the block runs it; yield its followers.

    `say` is told where people find what is logged. A tracker that fails is not used any more, and
    the search goes on.
    """
    if name is None:
        yield []
        return
    tracking = _Tracking(name, run, ranking, say)

    def observe(history: History, event: Event) -> None:
        with tracking.trying():
            tracking.observe(history, event)

    observe.__qualname__ = name  # for the warning of the logbook
    completed = False
    try:
        yield [observe]
        completed = True
    finally:
        try:
            with tracking.trying():
                tracking.end(completed=completed)
        except (Exception, SystemExit) as error:
            log.warning("%s failed (%s).", name, one_line(error))


class _Tracking:
    """Opens the tracker at the first event, logs each step, and closes it.

    A step is an outcome on the search documents; steps are numbered in the order of the outcomes.
    """

    def __init__(
        self, name: str, run: RunFolder, ranking: Ranking, say: Callable[[str], None]
    ) -> None:
        self._name, self._run, self._ranking, self._say = name, run, ranking, say
        self._objectives = measured(ranking)
        self._tracker: _Tracker | None = None
        self._is_broken = False
        self._incumbents: list[Candidate] = []
        self._failed = 0

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Let the tracker print nothing among a command's answers, and ask for no input."""
        keyboard, sys.stdin = sys.stdin, io.StringIO()
        try:
            with redirect_stdout(io.StringIO()):
                yield
        except BaseException:
            self._is_broken = True
            raise
        finally:
            sys.stdin = keyboard

    def observe(self, history: History, event: Event) -> None:
        """Log an event; the first one opens the tracker: then this process locks the run."""
        if event["event"] in PASSING:
            return
        if self._tracker is None:
            self._tracker = self._open()  # logs this event too
        else:
            self._log(self._tracker, history, event)

    def end(self, *, completed: bool) -> None:
        """Log the result if the search is completed, and close the tracker."""
        if completed and not self._is_broken:
            self._tracker = self._tracker or self._open()
            history = History(self._run.events())
            self._tracker.summarize(len(history.told) - 1, storable(self._result(history)))
        if self._tracker is not None:
            self._tracker.finish(completed=completed)

    def _open(self) -> _Tracker:
        """Open the tracker, and log what it lacks of the journal."""
        tracker = TRACKERS[self._name](*identity(self._run))
        self._say(f"logging to {self._name}: {tracker.where}")
        history, seconds = History(), self._run.timings.by_candidate()
        for event in self._run.events():
            history.apply(event)
            if event["event"] == "tell":
                event = {**event, "seconds": seconds.get(event["candidate"], {})}
            self._log(tracker, history, event)
        return tracker

    def _log(self, tracker: _Tracker, history: History, event: Event) -> None:
        """Log an event if it is a step that the tracker does not have yet."""
        if event["event"] not in ("tell", "complete"):
            return
        candidate = history.candidates[event["candidate"]]
        self._incumbents = self._ranking.incumbents([*self._incumbents, candidate])
        if event["event"] == "complete":
            return
        self._failed += candidate.scores("search") is None
        step = len(history.told) - 1
        if step >= tracker.steps:
            tracker.run.log(storable(self._metrics(candidate, event.get("seconds", {}))), step=step)

    def _metrics(self, candidate: Candidate, seconds: Mapping[str, float]) -> dict[str, float]:
        scores = candidate.scores("search")
        found: dict[str, float | None] = {
            "candidate": candidate.number,
            "generation": candidate.generation,
            "fitness": candidate.fitness,
            "best_fitness": self._incumbents[0].fitness if self._incumbents else None,
            "front": len(self._incumbents) if self._ranking.has_front else None,
            "failed": self._failed,
            "estimated": int(candidate.is_estimate),
            "documents": sum(scores.fidelity.values()) if scores else 0,
        }
        if scores is not None:
            found |= {f"search/{item.key}": search_score(scores, item) for item in self._objectives}
        found |= {f"seconds/{phase}": spent for phase, spent in seconds.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _result(self, history: History) -> dict[str, Any]:
        """Return the winner and its final scores."""
        if (winner := history.winner) is None:
            return {}
        found: dict[str, Any] = {"winner": winner.number, "winner_name": winner.name}
        for split in FINAL_SPLITS:
            if scores := winner.scores(split):
                found |= {
                    f"{split}/{item.key}": scores.aggregates[item.key] for item in self._objectives
                }
        return found


def identity(run: RunFolder) -> tuple[str, dict[str, Any]]:
    """Return the id of a search for a tracker, and its name, group and search file.

    The id, 16 hexadecimal digits, is made of the search file, what was resolved, and the place of
    the folder: a resumed search has the same one, and a copy is a run of its own. The stages of a
    search are a group.
    """
    path = run.path.resolve()
    files = [path / CONFIG, path / MANIFEST]
    frozen = b"".join(file.read_bytes() for file in files if file.is_file())
    group = path.parent.name if (path.parent / STAGES).is_file() else None
    config = {key: value for key, value in run.config().items() if key != FROZEN}
    known = {
        "name": path.name if group is None else f"{group}-{path.name}",
        "group": group,
        "config": config,
    }
    return hashlib.sha256(frozen + b"\0" + bytes(path)).hexdigest()[:16], storable(known)


class _Trackio:
    """A run of trackio, in `TRACKIO_DIR` (by default a folder in Hugging Face's cache).

    It goes to a Space or a server only if the user has set `TRACKIO_SPACE_ID` or
    `TRACKIO_SERVER_URL`. Trackio continues a run by its name, which therefore has digits of the id.
    `steps`: how many steps it has of earlier sessions.
    """

    def __init__(self, identifier: str, known: Mapping[str, Any]) -> None:
        import trackio

        self._finish = trackio.finish
        name = f"{known['name']}-{identifier[:6]}"
        self.run: Any = trackio.init(
            project=PROJECT,
            **{**known, "name": name},
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        self.steps = int(self.run._next_step)  # trackio tells it in no other way
        self.where = f"`trackio show --project {PROJECT}` shows the run {name}"

    def summarize(self, last: int, values: Mapping[str, Any]) -> None:
        """Log the result at the last step, so that it is no new step."""
        self.run.log(values, step=last)

    def finish(self, *, completed: bool) -> None:
        """Write what is left."""
        self._finish()


class _Wandb:
    """A run of Weights & Biases; offline unless `WANDB_MODE` says otherwise.

    An offline run is a folder in `WANDB_DIR`, which `wandb sync` uploads. Offline, wandb cannot
    continue such a folder, so each session writes the whole search into one of its own; all have
    the same run id. `steps`: how many steps the server has; 0 offline.
    """

    def __init__(self, identifier: str, known: Mapping[str, Any]) -> None:
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
        import wandb

        self._teardown = wandb.teardown
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            init_timeout=START,
            finish_timeout=END,
            finish_timeout_raises=True,
        )
        try:
            self.run: Any = wandb.init(
                project=PROJECT,
                id=identifier,
                **known,
                resume="allow",
                mode=mode,
                settings=settings,
            )
            self.run.define_metric("candidate")
            self.run.define_metric("*", step_metric="candidate")
        except BaseException:
            wandb.teardown()
            raise
        self.steps = int(self.run.step)
        self.where = f"the run is at {self.run.url}"
        if mode != "online" or not self.run.url:
            quoted = shlex.quote(str(self.run.settings.sync_dir))
            self.where = f"`wandb sync {quoted}` uploads the run"

    def summarize(self, last: int, values: Mapping[str, Any]) -> None:
        """Write the result to the run's summary."""
        self.run.summary.update(dict(values))

    def finish(self, *, completed: bool) -> None:
        """Finish the run, and end wandb's process."""
        try:
            self.run.finish(exit_code=0 if completed else 1)
        finally:
            self._teardown()


_Tracker: TypeAlias = _Trackio | _Wandb

TRACKERS: dict[str, type[_Tracker]] = {"trackio": _Trackio, "wandb": _Wandb}
"""Each has the name of its package, and of the extra that installs it."""
