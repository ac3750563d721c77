"""Run folders in optuna-dashboard (`evomerge dashboard`), which cannot change them.

Each run is a study of Optuna in memory, and each candidate is a trial of it. Before a request is
answered, the studies take in what the journals have got since the last one.
"""

from __future__ import annotations

import json
import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import optuna
import optuna_dashboard
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from evomerge.config.frozen import Frozen, GeneRange
from evomerge.config.schema import parse
from evomerge.errors import EvomergeError, InputError
from evomerge.report.rows import candidate_row
from evomerge.report.words import short_names, storable
from evomerge.run.folder import CONFIG, STAGES, RunFolder, begun_stages
from evomerge.run.history import Candidate, History
from evomerge.run.journal import Reader

HOST = "127.0.0.1"
"""The only address that is served: other machines cannot reach it."""

_READ_ONLY = "The dashboard shows runs and cannot change them; `evomerge resume` continues a run."
_OF_CANDIDATES = ("ask", "tell", "complete", "score", "winner")
_NOT_ATTRIBUTES = ("candidate", "fitness")  # Optuna's own number and value


class RunStudy:
    """A run as a study of Optuna, followed while it is being written.

    Args:
        name: name of the study.
        run: the run folder.
    """

    def __init__(self, name: str, run: RunFolder) -> None:
        self.name = name
        self._config = parse(run.config(), str(run.path / CONFIG))
        self._objectives = self._config.run_objectives
        frozen = self._config.frozen or Frozen()
        ranges = {gene: item for item in frozen.gene_ranges for gene in item.genes}
        found = {gene: _distribution(ranges[gene]) for gene in frozen.genes if gene in ranges}
        self._distributions: dict[str, BaseDistribution] = storable(found)
        self._reader, self._timings = Reader(run.journal_path), run.timings
        self._history = History()
        self._winner: int | None = None
        self.update()

    def show(self, storage: InMemoryStorage) -> None:
        """Create the study in a storage, with all candidates."""
        pareto = self._config.mode == "pareto"
        names = [item.key for item in self._objectives] if pareto else ["fitness"]
        self._storage, self._winner = storage, None
        self._study = optuna.create_study(
            storage=storage, study_name=storable(self.name), directions=["maximize"] * len(names)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names of metrics are new in Optuna
            self._study.set_metric_names(storable(names))
        self._add(self._history.candidates)
        self._note_winner()

    def update(self) -> set[int]:
        """Read the new events of the journal, and return the numbers of candidates in them.

        Raises:
            RunFolderError: the journal is missing or damaged.
        """
        events = self._reader.new_events()
        for event in events:
            self._history.apply(event)
        return {item["candidate"] for item in events if item.get("event") in _OF_CANDIDATES}

    def take_in(self, changed: Iterable[int]) -> bool:
        """Show the changes of candidates; return false if one had finished, so is not changed.

        Optuna does not let a trial change that has finished, but a candidate does: an estimate is
        completed, the finalists get further scores, one of them becomes the winner. Only a new
        study shows all then.
        """
        trials = self._study.get_trials(deepcopy=False)
        known = [number for number in changed if number < len(trials)]
        if any(trials[number].state.is_finished() for number in known):
            return False
        for number in known:
            self._finish(self._history.candidates[number])
        self._add(self._history.candidates[len(trials) :])
        self._note_winner()
        return True

    def _add(self, candidates: Sequence[Candidate]) -> None:
        """Add candidates as trials.

        An open one is shown as begun when the last line of `timings.jsonl` was written: at the end
        of the candidate before it, or at the start of the session.
        """
        spans, now = self._timings.spans(), datetime.now().timestamp()
        latest = self._timings.latest() or now
        for item in candidates:
            start, end = spans.get(item.number, (latest if item.status == "open" else now, now))
            self._study.add_trial(self._trial(item, start, end))

    def _trial(self, candidate: Candidate, start: float, end: float) -> FrozenTrial:
        genome = candidate.origin.get("genome", ()) if self._distributions else ()
        used = self._distributions if genome else {}
        trial = create_trial(
            state=_state(candidate),
            values=candidate.values,
            params={
                name: one.to_external_repr(value)
                for (name, one), value in zip(used.items(), genome, strict=True)
            },
            distributions=used,
            user_attrs=dict(self._attributes(candidate)),
        )
        trial.datetime_start = datetime.fromtimestamp(start)
        if trial.state.is_finished():
            trial.datetime_complete = datetime.fromtimestamp(end)
        return trial

    def _finish(self, candidate: Candidate) -> None:
        """Give the trial of an open candidate its outcome."""
        state, number = _state(candidate), candidate.number
        if not state.is_finished():
            return
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        for name, value in self._attributes(candidate):
            self._storage.set_trial_user_attr(trial_id, name, value)
        self._study.tell(number, candidate.values, state)

    def _note_winner(self) -> None:
        winner = self._history.winner
        if winner is not None and winner.number != self._winner:
            self._winner = winner.number
            self._study.set_user_attr("winner", winner.number)

    def _attributes(self, candidate: Candidate) -> Iterator[tuple[str, Any]]:
        """Yield the user attributes of a trial: a row of `evomerge results` without empty cells.

        Further ones are `estimated` (the value is estimated from a part of the search documents),
        and `failure` also if the value is not finite.
        """
        row = candidate_row(candidate, self._history, self._objectives)
        row["estimated"] = candidate.is_estimate
        if candidate.status == "scored" and candidate.values is None:
            row["failure"] = "the value is not finite"
        for name, value in storable(row).items():
            if value is not None and name not in _NOT_ATTRIBUTES:
                unknown = isinstance(value, float) and not math.isfinite(value)
                yield name, str(value) if unknown else value


def _state(candidate: Candidate) -> TrialState:
    if candidate.status == "open":
        return TrialState.RUNNING
    return TrialState.FAIL if candidate.values is None else TrialState.COMPLETE


def _distribution(gene: GeneRange) -> BaseDistribution:
    match gene.kind:
        case "real":
            return FloatDistribution(gene.low, gene.high)
        case "choice":
            return CategoricalDistribution(storable(gene.choices) or range(int(gene.high) + 1))
        case _:
            return IntDistribution(int(gene.low), int(gene.high))


def open_studies(directories: Sequence[Path]) -> list[RunStudy]:
    """Return a study for each run folder; of a search in stages, for each stage that has begun.

    A study is named like its folder. Where folders of the same name are given, it is named by as
    many of the folders above it as it takes to tell them apart.

    Raises:
        RunFolderError: a folder is not a run, or is damaged.
    """
    folders = dict.fromkeys(
        run.path.resolve() for directory in directories for run in _runs(directory)
    )
    names = short_names(map(str, folders))
    return [RunStudy(names[str(folder)], RunFolder(folder)) for folder in folders]


def _runs(directory: Path) -> list[RunFolder]:
    run = RunFolder(directory)
    in_stages = (directory / STAGES).is_file()
    return [RunFolder(stage) for stage in begun_stages(directory)] if in_stages else [run]


class Dashboard:
    """The WSGI application of optuna-dashboard, without all that changes something.

    Requests are answered one after the other.

    Args:
        studies: the runs.
    """

    def __init__(self, studies: Sequence[RunStudy]) -> None:
        self._studies, self._lock = studies, threading.Lock()
        self._open()

    def _open(self) -> None:
        storage, self._is_outdated = InMemoryStorage(), False
        for study in self._studies:
            study.show(storage)
        self._app: WSGIApplication = optuna_dashboard.wsgi(storage)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request: 405 if it would change something, 503 if a run cannot be read."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refuse(start_response, "405 Method Not Allowed", _READ_ONLY)
        with self._lock:
            try:
                for study in self._studies:
                    self._is_outdated |= not study.take_in(study.update())
            except EvomergeError as error:
                return _refuse(start_response, "503 Service Unavailable", str(error))
            if self._is_outdated:
                self._open()
            return self._app(environ, start_response)


def _refuse(start_response: StartResponse, status: str, reason: str) -> list[bytes]:
    start_response(status, [("Content-Type", "application/json"), ("Allow", "GET, HEAD")])
    return [json.dumps({"reason": reason}).encode()]


class _Server(ThreadingMixIn, WSGIServer):
    """Takes each request in a thread: browsers open connections before they need them."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    """Prints no line for each request."""

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def serve(directories: Sequence[Path], port: int, say: Callable[[str], None]) -> None:
    """Serve runs until the process is interrupted. Optuna prints nothing in this process then.

    Args:
        directories: run folders.
        port: from 1 to 65535; 0 for any that is free.
        say: prints a message for people.

    Raises:
        RunFolderError: a folder is not a run, or is damaged.
        InputError: the port cannot be used.
    """
    studies = open_studies(directories)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Optuna warns of every parameter that has few trials, again and again.
    warnings.filterwarnings("ignore", module="optuna")
    try:
        server = _Server((HOST, port), _Handler)
    except OSError as error:
        raise InputError(
            f"--port is {port}, which cannot be used ({error.strerror}); give another one, or 0 "
            "for any that is free."
        ) from error
    with server:
        server.set_app(Dashboard(studies))
        names = ", ".join(study.name for study in studies)
        say(f"{names}: http://{HOST}:{server.server_port}/ (Ctrl-C ends it)")
        server.serve_forever()
