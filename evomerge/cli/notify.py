"""`--notify COMMAND`: tells somebody that a search has ended, by a command of theirs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evomerge.cli import terminal
from evomerge.errors import InputError, one_line
from evomerge.run.folder import RunFolder

_LONGEST = 60.0  # seconds that the command may take


@contextmanager
def notifying(command: str | None, folder: Path) -> Iterator[None]:
    """Call a shell command when the search in a folder has ended, however it has ended.

    The command finds in its environment `EVOMERGE_RUN`, the folder; `EVOMERGE_STATE`, one of
    `done`, `stopped` (by `evomerge stop`), `failed`, `interrupted`; and `EVOMERGE_MESSAGE`, a
    sentence. A command that fails is a warning. A process that is killed tells nobody.
    """
    if command is None:
        yield
        return
    if not command.strip():
        raise InputError("--notify has no command; give a shell command, or leave the option out.")
    try:
        yield
    except KeyboardInterrupt:
        _call(command, folder, "interrupted", "A signal has ended the search.")
        raise
    except Exception as error:
        _call(command, folder, "failed", str(error) or type(error).__name__)
        raise
    _call(command, folder, *_end(folder))


def _end(folder: Path) -> tuple[str, str]:
    """Return the state of a search that has ended, and what it has found."""
    from evomerge.report.progress import progress
    from evomerge.report.view import View

    run = RunFolder(folder)
    return progress(run)["state"], View.of(run).verdict.text


def _call(command: str, folder: Path, state: str, message: str) -> None:
    told = {
        "EVOMERGE_RUN": str(folder.absolute()),
        "EVOMERGE_STATE": state,
        "EVOMERGE_MESSAGE": message,
    }
    try:
        process = subprocess.Popen(
            command, shell=True, env={**os.environ, **told}, start_new_session=True
        )
    except (OSError, ValueError) as error:  # say, a message that is too long for an environment
        terminal.warn([f"the command of --notify cannot be called ({one_line(error)})"])
        return
    try:
        if code := process.wait(_LONGEST):
            terminal.warn([f"the command of --notify ended with exit code {code}"])
    except subprocess.TimeoutExpired:
        terminal.warn([f"the command of --notify was ended after {_LONGEST:.0f} seconds"])
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # with what the shell has started
            process.wait()
