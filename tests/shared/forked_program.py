"""An `evomerge` for scripts, which forks the command as `search_run` does.

It is a small program that hands its arguments, environment and open files to the test, passes
signals on, and ends as the command ends.
"""

import json
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from search_run import environment, start

PROGRAM = """#!{python} -SEs
import json, os, signal, socket, sys

connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
socket.send_fds(connection, [b"!"], [1, 2])
about = {{"arguments": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}}
connection.sendall(json.dumps(about).encode())
connection.shutdown(socket.SHUT_WR)
answers = connection.makefile()
process = int(answers.readline())
for name in (signal.SIGINT, signal.SIGTERM):
    signal.signal(name, lambda number, _: os.kill(process, number))
code = int(answers.readline())
sys.exit(code if code >= 0 else 128 - code)
"""


@contextmanager
def forked_program(path: Path, *more: str) -> Iterator[None]:
    """Write the program; while the context is open it runs, with `more` after its arguments."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        address = f"{folder}/s"  # the path of a test is too long for one
        listening.bind(address)
        listening.listen()
        path.write_text(PROGRAM.format(python=sys.executable, address=address))
        path.chmod(0o755)
        threading.Thread(target=_serve, args=(listening, more), daemon=True).start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def _serve(listening: socket.socket, more: tuple[str, ...]) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:  # it was shut down
            return
        threading.Thread(target=_answer, args=(connection, more), daemon=True).start()


def _answer(connection: socket.socket, more: tuple[str, ...]) -> None:
    with connection:
        _, opened, _, _ = socket.recv_fds(connection, 1, 2)
        about = json.load(connection.makefile())
        stdout, stderr = (os.fdopen(number, "wb") for number in opened)
        with stdout, stderr:
            before, now = environment(), about["environment"]
            changed = {name: value for name, value in now.items() if before.get(name) != value}
            files = {"stdout": stdout, "stderr": stderr, "cwd": Path(about["cwd"])}
            command = start(*about["arguments"], *more, **files, **changed)
        connection.sendall(f"{command.pid}\n".encode())
        connection.sendall(f"{command.wait()}\n".encode())
