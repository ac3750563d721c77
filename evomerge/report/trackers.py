"""Logs a running search to an experiment tracker: Trackio or Weights & Biases."""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from importlib.util import find_spec
from typing import Any, TypeAlias

from evomerge.compat.trackio import steps_of
from evomerge.errors import InputError, one_line
from evomerge.report.rows import FINAL_SPLITS, search_score
from evomerge.report.words import storable
from evomerge.run.folder import CONFIG, FROZEN, MANIFEST, RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.journal import Event
from evomerge.run.logbook import Follower
from evomerge.searching.ranking import Ranking, measured

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

    `say` is told where people find what is logged. It is told once if the tracker fails, which is
    not used any more then; the search goes on.
    """
    if name is None:
        yield []
        return

    failures: list[BaseException] = []

    @contextmanager
    def warned() -> Iterator[None]:
        try:
            with _quiet():
                yield
        except (Exception, SystemExit) as error:
            if not failures:
                say(f"warning: {name} failed ({one_line(error)}); the search goes on without it.")
            failures.append(error)
            raise

    followers: list[Follower] = []
    with suppress(Exception, SystemExit), warned():
        tracker = TRACKERS[name](*identity(run))
        say(f"logging to {name}: {tracker.where}")
        steps = _Steps(tracker, ranking)
        steps.log_missing(run)

        def observe(history: History, event: Event) -> None:
            with warned():  # the logbook does not call it again after an error
                steps.log(history, event)

        followers.append(observe)
    completed = False
    try:
        yield followers
        completed = True
    finally:
        if followers:
            with suppress(Exception, SystemExit), warned():
                steps.finish(History(run.events()) if completed and not failures else None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let a tracker print nothing among a command's answers, and ask for no input."""
    keyboard, sys.stdin = sys.stdin, io.StringIO()
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.stdin = keyboard


class _Steps:
    """Logs the steps that a tracker does not have yet.

    A step is an outcome on the search documents; steps are numbered in the order of the outcomes.
    """

    def __init__(self, tracker: _Tracker, ranking: Ranking) -> None:
        self._tracker, self._ranking = tracker, ranking
        self._objectives = measured(ranking)
        self._incumbents: list[Candidate] = []
        self._failed = 0

    def log_missing(self, run: RunFolder) -> None:
        """Log what the tracker lacks of the journal."""
        history, seconds = History(), run.timings.by_candidate()
        for event in run.events():
            history.apply(event)
            if event["event"] == "tell":
                event = {**event, "seconds": seconds.get(event["candidate"], {})}
            self.log(history, event)

    def log(self, history: History, event: Event) -> None:
        """Log an event if it is a new step."""
        if event["event"] not in ("tell", "complete"):
            return
        candidate = history.candidates[event["candidate"]]
        self._incumbents = self._ranking.incumbents([*self._incumbents, candidate])
        if event["event"] == "complete":
            return
        self._failed += candidate.scores("search") is None
        step = len(history.told) - 1
        if step >= self._tracker.steps:
            metrics = self._metrics(candidate, event.get("seconds", {}))
            self._tracker.run.log(storable(metrics), step=step)

    def finish(self, history: History | None) -> None:
        """Log the result of a completed search (None: it is not completed), and close the run."""
        if history is not None and history.winner is not None:
            self._tracker.summarize(len(history.told) - 1, storable(self._result(history.winner)))
        self._tracker.finish(completed=history is not None)

    def _result(self, winner: Candidate) -> dict[str, Any]:
        found: dict[str, Any] = {"winner": winner.number, "winner_name": winner.name}
        for split in FINAL_SPLITS:
            if scores := winner.scores(split):
                found |= {
                    f"{split}/{item.key}": scores.aggregates[item.key] for item in self._objectives
                }
        return found

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


def identity(run: RunFolder) -> tuple[str, dict[str, Any]]:
    """Return the id of a search for a tracker, and its name and search file.

    The id, 16 hexadecimal digits, is made of the search file, what was resolved, and the place of
    the folder: a resumed search has the same one, and a copy is a run of its own.
    """
    path = run.path.resolve()
    files = [path / CONFIG, path / MANIFEST]
    frozen = b"".join(file.read_bytes() for file in files if file.is_file())
    config = {key: value for key, value in run.config().items() if key != FROZEN}
    known = {"name": path.name, "config": config}
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
        self.steps = steps_of(self.run)
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
