"""Run folders in optuna-dashboard (`evomerge dashboard`), which cannot change them.

Each run is a study of Optuna in memory, and each candidate is a trial of it. Before a request is
answered, the studies take in what the journals have got since the last one.
"""

from __future__ import annotations

import json
import math
import threading
import time
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

HOST = "127.0.0.1"
"""The only address that is served: other machines cannot reach it."""

_READ_ONLY = "The dashboard shows runs and cannot change them; `evomerge resume` continues a run."
_NOT_ATTRIBUTES = ("candidate", "fitness")  # Optuna's own number and value


class RunStudy:
    """A run as a study of Optuna with a name, followed while it is being written."""

    def __init__(self, name: str, run: RunFolder) -> None:
        self.name = name
        self._config = parse(run.config(), str(run.path / CONFIG))
        self._objectives = self._config.run_objectives
        frozen = self._config.frozen or Frozen()
        ranges = {gene: item for item in frozen.gene_ranges for gene in item.genes}
        found = {gene: _distribution(ranges[gene]) for gene in frozen.genes if gene in ranges}
        self._distributions: dict[str, BaseDistribution] = storable(found)
        self._run, self._timings = run, run.timings
        self._history = History(run.events())

    @property
    def size(self) -> int | None:
        """Number of bytes of its journal; None: it is not there any more."""
        path = self._run.journal_path
        return path.stat().st_size if path.is_file() else None

    def show(self, storage: InMemoryStorage) -> None:
        """Create the study in a storage, with all candidates that the journal has now.

        An open one is shown as begun when the last line of `timings.jsonl` was written.
        """
        self._history = History(self._run.events())
        pareto = self._config.mode == "pareto"
        names = [item.key for item in self._objectives] if pareto else ["fitness"]
        study = optuna.create_study(
            storage=storage, study_name=storable(self.name), directions=["maximize"] * len(names)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names of metrics are new in Optuna
            study.set_metric_names(storable(names))
        spans, now = self._timings.spans(), datetime.now().timestamp()
        latest = self._timings.latest() or now
        for item in self._history.candidates:
            start, end = spans.get(item.number, (latest if item.status == "open" else now, now))
            study.add_trial(self._trial(item, start, end))
        if self._history.winner is not None:
            study.set_user_attr("winner", self._history.winner.number)

    def _trial(self, candidate: Candidate, start: float, end: float) -> FrozenTrial:
        genome = candidate.origin.get("genome", ()) if self._distributions else ()
        used = self._distributions if genome else {}
        state = TrialState.FAIL if candidate.values is None else TrialState.COMPLETE
        trial = create_trial(
            state=TrialState.RUNNING if candidate.status == "open" else state,
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

    def _attributes(self, candidate: Candidate) -> Iterator[tuple[str, Any]]:
        """Yield a row of `evomerge results` without empty cells, `estimated`, and more failures."""
        row = candidate_row(candidate, self._history, self._objectives)
        row["estimated"] = candidate.is_estimate
        if candidate.status == "scored" and candidate.values is None:
            row["failure"] = "the value is not finite"
        for name, value in storable(row).items():
            if value is not None and name not in _NOT_ATTRIBUTES:
                unknown = isinstance(value, float) and not math.isfinite(value)
                yield name, str(value) if unknown else value


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

    A study is named like its folder; folders of the same name get names of folders above them. A
    RunFolderError says that a folder is not a run, or is damaged.
    """
    folders: dict[Path, None] = {}
    for directory in directories:
        run = RunFolder(directory)
        stages = begun_stages(directory) if (directory / STAGES).is_file() else [run.path]
        folders |= dict.fromkeys(stage.resolve() for stage in stages)
    names = short_names(map(str, folders))
    return [RunStudy(names[str(folder)], RunFolder(folder)) for folder in folders]


class Dashboard:
    """The WSGI application of optuna-dashboard, without all that changes something.

    Requests are answered one after the other. If a journal has got longer, all studies are made
    anew before: Optuna does not let a trial change that has finished, but a candidate does, when an
    estimate is completed or a finalist gets further scores. This may take a tenth of the time.
    """

    def __init__(self, studies: Sequence[RunStudy]) -> None:
        self._studies, self._lock = studies, threading.Lock()
        self._sizes: list[int | None] = []
        self._next = 0.0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request: 405 if it would change something, 503 if a run cannot be read."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refuse(start_response, "405 Method Not Allowed", _READ_ONLY)
        with self._lock:
            begin, sizes = time.monotonic(), [study.size for study in self._studies]
            if sizes != self._sizes and begin >= self._next:
                storage = InMemoryStorage()
                try:
                    for study in self._studies:
                        study.show(storage)
                except EvomergeError as error:
                    return _refuse(start_response, "503 Service Unavailable", str(error))
                self._app: WSGIApplication = optuna_dashboard.wsgi(storage)
                end = time.monotonic()
                self._sizes, self._next = sizes, end + 9 * (end - begin)
            return self._app(environ, start_response)


def _refuse(start_response: StartResponse, status: str, reason: str) -> list[bytes]:
    start_response(status, [("Content-Type", "application/json"), ("Allow", "GET, HEAD")])
    return [json.dumps({"reason": reason}).encode()]


class _Server(ThreadingMixIn, WSGIServer):
    """Takes each request in a thread: browsers open connections before they need them."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Print no line for each request."""


def serve(directories: Sequence[Path], port: int, say: Callable[[str], None]) -> None:
    """Serve runs at a port (0: any that is free) until the process is interrupted.

    RunFolderError: a folder is not a run, or is damaged. InputError: the port cannot be used.
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
