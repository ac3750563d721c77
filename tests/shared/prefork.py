"""Starts `evomerge` commands as processes that are forked from one that has done the imports.

A command is a process of its own in all but its first seconds: it has its own environment, working
folder, memory and exit code, and can be killed. `runpy` runs the package in it, as Python's option
`-m` does. The order of sets of strings is that of the server, and what a command imports cannot be
seen; tests of these start `search_run.command` instead.
"""

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

OF_OTHERS = """
    cma datasets lm_eval.evaluator lm_eval.models.huggingface matplotlib.backends.backend_svg
    nevergrad transformers.generation.utils transformers.integrations.mistral
    transformers.models.llama.modeling_llama transformers.tokenization_utils_tokenizers
"""
OWN = """
    cli.commands cli.live evaluation.evaluator evaluation.lm_eval.tasks execute.protocol
    execute.worker export.checkpoint mergekit.from_recipe merging.backend merging.kernels.compiled
    merging.resident optimize.cma report.page api.search searching.estimate problem.preflight
    execute.plan searching.run space.parameters strategy.genome
"""
IMPORTED = (*OF_OTHERS.split(), *(f"evomerge.{name}" for name in OWN.split()))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
"""The server's; that of the tests before any of them changed it."""
READ_AT_IMPORT = ("ATEN_", "CUDA_", "HF_", "MKL_", "NUMBA_", "OMP_", "TRANSFORMERS_")
"""How variables begin that libraries read when they are imported or first used."""
READ_AGAIN = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_", "HF_TOKEN")
"""Those of the Hub's client, which reads them again in each command."""


def can_fork(changes: Iterable[str]) -> bool:
    """Return whether a command can have other values of these variables than the server."""
    # The libraries of macOS cannot be forked.
    fixed = [name for name in changes if not name.startswith(READ_AGAIN)]
    return sys.platform != "darwin" and not any(name.startswith(READ_AT_IMPORT) for name in fixed)


class Forked:
    """A command that runs; its methods and exit codes are those of `subprocess.Popen`."""

    def __init__(
        self, arguments: list[str], *, module: str, cwd: Path | None, env: dict[str, str],
        stdout: IO, stderr: IO,
    ) -> None:  # fmt: skip
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(server(), [b"!"], [file.fileno() for file in (stdout, stderr, theirs)])
        about = {"arguments": arguments, "module": module, "environment": env}
        about["cwd"] = str(cwd or Path.cwd())
        with ours:
            ours.sendall(json.dumps(about).encode())
            ours.shutdown(socket.SHUT_WR)
            self._answers = ours.makefile()
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while the command runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code at the end; TimeoutExpired: it takes more than so many seconds."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("evomerge", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to the command if it runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since, and its code is on the way
                os.kill(self.pid, number)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._answers], [], [], timeout)[0]:
            self.returncode = int(self._answers.readline())
        return self.returncode


@cache
def server() -> socket.socket:
    """Start a server and return the connection to it; it ends when this process ends."""
    ours, theirs = socket.socketpair()
    with theirs:
        words, fds = [sys.executable, __file__, str(theirs.fileno())], [theirs.fileno()]
        subprocess.Popen(words, env=ENVIRONMENT, stdin=subprocess.DEVNULL, pass_fds=fds)
    return ours


# What follows runs in the server, and in the processes that it forks.


def prepare() -> None:
    """Import what commands import, and what numba would import at the first loop."""
    for name in IMPORTED:
        importlib.import_module(name)
    machine = importlib.import_module("numba.core.registry").cpu_target
    machine.typing_context.refresh()
    machine.target_context.refresh()


def serve(requests: socket.socket) -> tuple[dict, list[int]]:
    """Fork a process for each request, and return in it with the request and two open files."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        asked, opened, _, _ = socket.recv_fds(requests, 1, 3)
        if not asked:
            sys.exit()
        *files, answers = opened
        if os.fork():
            for file in (*files, answers):
                os.close(file)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with socket.socket(fileno=answers) as connection, requests:
            about = json.load(connection.makefile())
            number = os.fork()
            if number == 0:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                return about, files
            for file in files:
                os.close(file)
            connection.sendall(f"{number}\n".encode())
            _, status = os.waitpid(number, 0)
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)


def become(about: dict, files: list[int]) -> None:
    """Make this process what a new Python would be."""
    for number, file in enumerate(files, 1):
        os.dup2(file, number)
        os.close(file)
    os.chdir(about["cwd"])
    os.environ.clear()
    os.environ.update(about["environment"])
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [about["cwd"], *(path for path in added if path and path not in sys.path)]
    sys.argv[1:] = about["arguments"]
    importlib.reload(sys.modules["huggingface_hub.constants"])
    # Forks begin with the server's state.
    random.seed()
    sys.modules["numpy"].random.seed()


def run(module: str) -> NoReturn:
    """Run a module, and end as Python does, but for the memory: to free it would copy it."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)


if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())
    prepare()
    gc.freeze()
    asked, output = serve(socket.socket(fileno=int(sys.argv[1])))
    become(asked, output)
    run(asked["module"])
