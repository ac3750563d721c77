"""`--notify COMMAND`: tells somebody that a search has ended, by a command of theirs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evomerge.cli import terminal
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
        code = subprocess.run(
            command, shell=True, env={**os.environ, **told}, timeout=_LONGEST, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        terminal.warn([f"the command of --notify was ended after {_LONGEST:.0f} seconds"])
    else:
        if code:
            terminal.warn([f"the command of --notify ended with exit code {code}"])
