"""Run folders in optuna-dashboard (`evomerge dashboard`), which cannot change them.

Each run is a study of Optuna in memory, and each candidate is a trial of it. Before a request is
answered, the studies take in what the journals have got since the last one.
"""

from __future__ import annotations

import json
import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from evomerge.errors import InputError
from evomerge.report.rows import candidate_row
from evomerge.report.words import short_names, storable
from evomerge.run.folder import STAGES, RunFolder, begun_stages
from evomerge.run.history import Candidate, History

HOST = "127.0.0.1"
"""The only address that is served: other machines cannot reach it."""

_READ_ONLY = "The dashboard shows runs and cannot change them; `evomerge resume` continues a run."
MOST = 2_000
"""Number of candidates up to which all are shown; browsers become slow with far more."""


def add_study(storage: InMemoryStorage, name: str, run: RunFolder) -> None:
    """Add a run as a study with this name, with the candidates that its journal has now.

    Of more than `MOST`, those that stand out and every n-th are added, and each has its number as
    an attribute, since Optuna numbers them anew.
    """
    config, history = run.search_file(), History(run.events())
    names = [item.key for item in config.run_objectives] if config.mode == "pareto" else ["fitness"]
    study = optuna.create_study(
        storage=storage, study_name=storable(name), directions=["maximize"] * len(names)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names of metrics are new in Optuna
        study.set_metric_names(storable(names))
    frozen = config.frozen or Frozen()
    ranges = {gene: item for item in frozen.gene_ranges for gene in item.genes}
    genes = {gene: _distribution(ranges[gene]) for gene in frozen.genes if gene in ranges}
    spans = run.timings.spans()
    everyone, chosen = history.candidates, list(_chosen(history.candidates))
    # Optuna has a value of its own, and mostly the same number.
    left_out = {"fitness"} | ({"candidate"} if len(chosen) == len(everyone) else set())
    for item in chosen:
        trial = _trial(item, storable(genes))
        if item.number in spans and trial.state.is_finished():
            start, end = map(datetime.fromtimestamp, spans[item.number])
            trial.datetime_start, trial.datetime_complete = start, end
        row = candidate_row(item, history, config.run_objectives)
        kept = {name: value for name, value in row.items() if name not in left_out}
        trial.user_attrs = dict(_attributes(item, kept))
        study.add_trial(trial)
    if len(chosen) < len(everyone):
        study.set_user_attr("candidates", f"{len(chosen):,} of {len(everyone):,} are shown")
    if history.winner is not None:
        study.set_user_attr("winner", history.winner.number)


def _chosen(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """Yield all candidates; of more than `MOST` every n-th, and those that stand out.

    These are the baselines and finalists, those that are being scored, and each that was the best
    of the first objective so far.
    """
    every, best = max(1, -(-len(candidates) // MOST)), -math.inf
    for item in candidates:
        value = -math.inf if item.values is None else item.values[0]
        if item.number % every == 0 or item.label or len(item.outcomes) != 1 or value > best:
            yield item
        best = max(best, value)


def _trial(candidate: Candidate, genes: dict[str, BaseDistribution]) -> FrozenTrial:
    genome = candidate.origin.get("genome", ()) if genes else ()
    used = genes if genome else {}
    state = TrialState.FAIL if candidate.values is None else TrialState.COMPLETE
    return create_trial(
        state=TrialState.RUNNING if candidate.status == "open" else state,
        values=candidate.values,
        params={
            name: one.to_external_repr(value)
            for (name, one), value in zip(used.items(), genome, strict=True)
        },
        distributions=used,
    )


def _attributes(candidate: Candidate, row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield a row of `evomerge results` without empty cells, `estimated`, and more failures."""
    row = {**row, "estimated": candidate.is_estimate}
    if candidate.status == "scored" and candidate.values is None:
        row["failure"] = "the value is not finite"
    for name, value in storable(row).items():
        if value is not None:
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


def named_runs(directories: Sequence[Path]) -> dict[str, RunFolder]:
    """Return name of a study -> its run folder; of a search in stages, each stage that has begun.

    A study is named like its folder; folders of the same name get names of folders above them. A
    RunFolderError says that a folder is not a run.
    """
    folders: dict[Path, None] = {}
    for directory in directories:
        run = RunFolder(directory)
        stages = begun_stages(directory) if (directory / STAGES).is_file() else [run.path]
        folders |= dict.fromkeys(stage.resolve() for stage in stages)
    names = short_names(map(str, folders))
    return {names[str(folder)]: RunFolder(folder) for folder in folders}


class Dashboard:
    """The WSGI application of optuna-dashboard, without all that changes something.

    Requests are answered one after the other. If a journal has got longer, all studies are made
    anew before: Optuna does not let a trial change that has finished, but a candidate does, when an
    estimate is completed or a finalist gets further scores.
    """

    def __init__(self, runs: Mapping[str, RunFolder]) -> None:
        self._runs, self._lock = runs, threading.Lock()
        self._sizes: list[int] = []
        self._read()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request; one that would change something gets status 405."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            headers = [("Content-Type", "application/json"), ("Allow", "GET, HEAD")]
            start_response("405 Method Not Allowed", headers)
            return [json.dumps({"reason": _READ_ONLY}).encode()]
        with self._lock:
            self._read()
            return self._app(environ, start_response)

    def _read(self) -> None:
        """Make the studies anew if a journal has got longer."""
        sizes = [run.journal_path.stat().st_size for run in self._runs.values()]
        if sizes != self._sizes:
            storage = InMemoryStorage()
            for name, run in self._runs.items():
                add_study(storage, name, run)
            self._app: WSGIApplication = optuna_dashboard.wsgi(storage)
            self._sizes = sizes


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
    runs = named_runs(directories)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Optuna warns of every parameter that has few trials, again and again.
    warnings.filterwarnings("ignore", module="optuna")
    dashboard = Dashboard(runs)
    try:
        server = _Server((HOST, port), _Handler)
    except OSError as error:
        raise InputError(
            f"--port is {port}, which cannot be used ({error.strerror}); give another one, or 0 "
            "for any that is free."
        ) from error
    with server:
        server.set_app(dashboard)
        say(f"{', '.join(runs)}: http://{HOST}:{server.server_port}/ (Ctrl-C ends it)")
        server.serve_forever()
