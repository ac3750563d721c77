"""The dashboard's web server: optuna-dashboard over run folders, which it cannot change."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import optuna_dashboard
from optuna.storages import JournalStorage

from evomerge.errors import EvomergeError, InputError
from evomerge.report.dashboard.journal import READ_ONLY, RunsBackend
from evomerge.report.dashboard.study import Study
from evomerge.report.names import short_names
from evomerge.run.folder import STAGES, RunFolder, begun_stages

HOST = "127.0.0.1"
"""The only address that is served: other machines cannot reach it."""


def open_studies(directories: Sequence[Path]) -> list[Study]:
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
    return [Study(names[str(folder)], RunFolder(folder)) for folder in folders]


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

    def __init__(self, studies: Sequence[Study]) -> None:
        self._studies = studies
        self._lock = threading.Lock()
        self._open()

    def _open(self) -> None:
        self._backend = RunsBackend(self._studies)
        self._app: WSGIApplication = optuna_dashboard.wsgi(JournalStorage(self._backend))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request: 405 if it would change something, 503 if a run cannot be read."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refuse(start_response, "405 Method Not Allowed", READ_ONLY)
        with self._lock:
            try:
                self._backend.update()
            except EvomergeError as error:
                return _refuse(start_response, "503 Service Unavailable", str(error))
            if self._backend.is_outdated:
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


def make_server(studies: Sequence[Study], port: int) -> WSGIServer:
    """Return a server of the dashboard that listens; its `serve_forever` answers requests.

    Args:
        studies: the runs.
        port: from 1 to 65535; 0 for any that is free.

    Raises:
        InputError: the port cannot be used.
    """
    try:
        server = _Server((HOST, port), _Handler)
    except OSError as error:
        raise InputError(
            f"--port is {port}, which cannot be used ({error.strerror}); give another one, or 0 "
            "for any that is free."
        ) from error
    server.set_app(Dashboard(studies))
    return server
