"""The files of a run: created as a whole, replaced as a whole, written by one process."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from evomerge.errors import RunFolderError
from evomerge.parsing.texts import read_text
from evomerge.parsing.yaml import yaml_mapping
from evomerge.run.atomic import create_whole, remove_abandoned, replace_text
from evomerge.run.journal import FORMAT, Event, encode, read
from evomerge.run.lock import exclusive, is_held

CONFIG = "search.yaml"
JOURNAL = "journal.jsonl"
STAGES = "stages.yaml"

_LONGEST_AGO = 1e11
"""Seconds; no clock of ours says more."""


def stage_folder(path: Path, number: int) -> Path:
    """Return the run folder of a stage, counted from 1."""
    return path / f"stage-{number}"


class RunFolder:
    """A folder that holds one search for ever."""

    def __init__(self, path: Path) -> None:
        """Open an existing run; of a search in stages, the latest stage.

        Raises:
            RunFolderError: the folder is missing or is not a run.
        """
        there = os.path.isdir(path)  # noqa: PTH112 - Path's raises for names that are too long
        if there and (path / STAGES).is_file():
            begun = [number for number in range(1, 100) if stage_folder(path, number).exists()]
            if not begun:
                raise RunFolderError(
                    f"{path} has begun none of its stages yet; wait for it, or go on with "
                    f"`evomerge resume {path}`."
                )
            path = stage_folder(path, begun[-1])
        self.path = path
        if not there or not path.is_dir():
            raise RunFolderError(
                f"{path} does not exist; start a run with `evomerge search FILE --run {path}`."
            )
        for name in (CONFIG, JOURNAL):
            if not (path / name).is_file():
                raise RunFolderError(f"{path} is not a run folder: it holds no {name}.")

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Check that a run may be created here.

        Raises:
            RunFolderError: something is there already, or the place cannot be written.
        """
        if (path / JOURNAL).exists() or (path / STAGES).exists():
            raise RunFolderError(
                f"{path} already holds a run; continue it with `evomerge resume {path}`, "
                f"or give another folder to --run."
            )
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunFolderError(
                f"{path} exists and is not a run folder; give --run a new or an empty folder."
            )
        parent = next((folder for folder in path.absolute().parents if folder.exists()), None)
        if parent is None or not parent.is_dir() or not os.access(parent, os.W_OK):
            raise RunFolderError(f"{path} cannot be created: {parent} is not a writable folder.")

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any]) -> RunFolder:
        """Create a run with its frozen configuration, all at once.

        Raises:
            RunFolderError: as for `check_free`, or another process makes the same folder.
        """
        cls.check_free(path)
        header = encode({"event": "header", "format": FORMAT})
        text = yaml.safe_dump(dict(config), sort_keys=False, width=110)
        try:
            create_whole(path, {CONFIG: text, JOURNAL: header.decode()})
        except OSError as error:
            cls.check_free(path)
            raise RunFolderError(f"{path} cannot be created: {error.strerror}.") from error
        return cls(path)

    @property
    def journal_path(self) -> Path:
        """Path of the journal."""
        return self.path / JOURNAL

    def config(self) -> dict[str, Any]:
        """Read the frozen configuration.

        Raises:
            RunFolderError: it cannot be read, or is no YAML mapping.
        """
        file = self.path / CONFIG
        text = read_text(file, RunFolderError)
        return yaml_mapping(text, str(file), "a search file", RunFolderError)

    def events(self) -> list[Event]:
        """Read the journal's complete events."""
        return read(self.journal_path)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the run's lock; what killed writers left half-written is removed first.

        Raises:
            RunFolderError: another process writes this run.
        """
        with exclusive(self.path / "lock"):
            remove_abandoned(self.path)
            yield

    @property
    def is_running(self) -> bool:
        """Whether some process writes this run now."""
        return is_held(self.path / "lock")

    def write(self, name: str, text: str) -> None:
        """Replace a file of the run as a whole."""
        replace_text(self.path / name, text)

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Write what evomerge logs into the run's `log.txt` too while the block runs."""
        handler = logging.FileHandler(self.path / "log.txt", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger = logging.getLogger("evomerge")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            handler.close()

    def note_timing(self, entry: Mapping[str, Any]) -> None:
        """Append to `timings.jsonl`; what is lost in a kill is missed by nothing."""
        with (self.path / "timings.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(entry)) + "\n")

    def hours(self) -> float:
        """Return the working time so far, over all sessions.

        Lines of `timings.jsonl` that are torn, or hold anything else, are passed over.
        """
        try:
            text = (self.path / "timings.jsonl").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return 0.0
        sessions: dict[float, float] = {}
        for session, elapsed in filter(None, map(_timing, text.splitlines())):
            sessions[session] = max(sessions.get(session, 0.0), elapsed)
        return sum(sessions.values()) / 3600


def _timing(line: str) -> tuple[float, float] | None:
    """Return when a line's session began, and how many seconds it had lasted; None for no such."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    session, elapsed = entry.get("session"), entry.get("elapsed")
    if not isinstance(session, (int, float)) or not isinstance(elapsed, (int, float)):
        return None
    sound = 0 <= session < _LONGEST_AGO and 0 <= elapsed < _LONGEST_AGO
    return (float(session), float(elapsed)) if sound else None
