"""The run folder: created and changed so that a kill never leaves half a file."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evomerge.errors import RunFolderError
from evomerge.parsing.texts import read_text
from evomerge.parsing.yaml import yaml_mapping, yaml_text
from evomerge.run.atomic import create_folder, remove_abandoned, replace_text
from evomerge.run.frozen_file import changed_sections, with_digests
from evomerge.run.journal import FORMAT, Event, encode, read
from evomerge.run.lock import exclusive, is_held
from evomerge.run.timings import Timings
from evomerge.run.writable import why_not_writable

CONFIG = "search.yaml"
JOURNAL = "journal.jsonl"
STAGES = "stages.yaml"
MODELS = "models"
MERGEKIT = "best.mergekit.yaml"
NOT_IN_MERGEKIT = "best.not-in-mergekit.txt"


def stage_folder(path: Path, number: int) -> Path:
    """Return the run folder of a stage.

    Args:
        path: folder of the search in stages.
        number: number of the stage, from 1.
    """
    return path / f"stage-{number}"


def begun_stages(path: Path) -> list[Path]:
    """Return the run folders of the stages that have begun.

    Args:
        path: folder of the search in stages.
    """
    folders = (stage_folder(path, number) for number in range(1, 100))
    return [folder for folder in folders if folder.exists()]


class RunFolder:
    """A folder that holds one search.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        """Open an existing run; of a search in stages, the latest stage that has begun.

        Raises:
            RunFolderError: the folder does not exist or is not a run.
        """
        there = os.path.isdir(path)  # noqa: PTH112 - Path's raises for names that are too long
        if there and (path / STAGES).is_file():
            begun = begun_stages(path)
            if not begun:
                raise RunFolderError(
                    f"{path} has begun none of its stages yet; wait until it has, or start them "
                    f"with `evomerge resume {shlex.quote(str(path))}`."
                )
            path = begun[-1]
        self.path = path
        if os.path.isfile(path):  # noqa: PTH113
            raise RunFolderError(
                f"{path} is a file, not a run; give the folder that was given to --run."
            )
        if not there or not path.is_dir():
            raise RunFolderError(
                f"{path} does not exist; start a run with `evomerge search FILE --run "
                f"{shlex.quote(str(path))}`."
            )
        for name in (CONFIG, JOURNAL):
            if not (path / name).is_file():
                raise RunFolderError(
                    f"{path} is not a run folder: it has no {name}; give the folder that was "
                    "given to --run."
                )

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Check that a run can be created in this folder.

        Raises:
            RunFolderError: the folder is not empty, or cannot be written.
        """
        # `os.path` has an answer for names that are too long.
        if any(os.path.exists(path / name) for name in (JOURNAL, STAGES)):  # noqa: PTH110
            raise RunFolderError(
                f"{path} already holds a run; continue it with `evomerge resume "
                f"{shlex.quote(str(path))}`, or give another folder to --run."
            )
        if os.path.exists(path) and (not path.is_dir() or any(path.iterdir())):  # noqa: PTH110
            raise RunFolderError(
                f"{path} exists and is not a run folder; give --run a new or an empty folder."
            )
        reason = why_not_writable(path)
        if reason is not None:
            raise RunFolderError(
                f"{path} cannot be created: {reason}; give --run a folder that can be written."
            )

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any]) -> RunFolder:
        """Create a run with its frozen search file, in one step.

        Args:
            path: the folder.
            config: content of the frozen search file.

        Raises:
            RunFolderError: as for `check_free`, or another process creates the same folder.
        """
        cls.check_free(path)
        header = encode({"event": "header", "format": FORMAT})
        text = yaml_text(with_digests(config), width=110)
        try:
            create_folder(path, {CONFIG: text, JOURNAL: header.decode()})
        except OSError as error:
            cls.check_free(path)
            raise RunFolderError(f"{path} cannot be created: {error.strerror}.") from error
        return cls(path)

    @property
    def journal_path(self) -> Path:
        """Path of the journal file."""
        return self.path / JOURNAL

    @property
    def timings(self) -> Timings:
        """The times of the run's sessions and candidates."""
        return Timings(self.path / "timings.jsonl")

    def config(self) -> dict[str, Any]:
        """Return the content of the frozen search file.

        Raises:
            RunFolderError: it cannot be read, is not a YAML mapping, or was changed by hand.
        """
        file = self.path / CONFIG
        text = read_text(file, RunFolderError)
        content = yaml_mapping(text, str(file), "a search file", RunFolderError)
        changed = changed_sections(content)
        if changed:
            raise RunFolderError(
                f"{file} was changed after the run began (in `{'`, `'.join(changed)}`); put it "
                "back as it was, start a new run, or give `evomerge resume` the change "
                "(--candidates, --hours, --patience, --set executor.KEY=VALUE)."
            )
        return content

    def events(self) -> list[Event]:
        """Return the complete events of the journal.

        Raises:
            RunFolderError: the journal is missing, damaged, or of another format.
        """
        return read(self.journal_path)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the run's lock while the block runs, and remove what killed writers have left.

        Raises:
            RunFolderError: another process holds the lock.
        """
        with exclusive(self.path / "lock"):
            remove_abandoned(self.path)
            yield

    @property
    def is_running(self) -> bool:
        """Whether a process is writing to this run now."""
        return is_held(self.path / "lock")

    @property
    def why_not_in_mergekit(self) -> str | None:
        """Why there is no mergekit file of the best merge; None if there is one, or no merge yet.

        Raises:
            RunFolderError: the file with the reason cannot be read.
        """
        file = self.path / NOT_IN_MERGEKIT
        return read_text(file, RunFolderError).strip() if file.is_file() else None

    def write(self, name: str, text: str) -> None:
        """Write a file of the run, so that it is never seen half written."""
        replace_text(self.path / name, text)

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Write log messages of evomerge to the run's `log.txt` too, while the block runs."""
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
