"""The run folder: created and changed so that a kill never leaves half a file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import RunFolderError, RunInUseError, not_written, without_controls
from evomerge.parsing.texts import (
    check_inside,
    check_ordinary,
    entries,
    json_value,
    read_text,
    yaml_mapping,
)
from evomerge.run.atomic import check_writable, create_folder, remove_abandoned, replace_text
from evomerge.run.journal import HEADER, Event, Journal, Lines, Timings, is_held, read

if TYPE_CHECKING:
    from evomerge.config.record import Record

log = logging.getLogger(__name__)

CONFIG = "search.yaml"
MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
MODELS = "models"
MERGEKIT = "best.mergekit.yaml"
NOT_IN_MERGEKIT = "best.not-in-mergekit.txt"
TEXTS = "base_texts.jsonl"
STOP = "stop"
_DIGEST = "digest"  # of the search file and the rest of the manifest
_WRITE = "name a folder that can be written"


def is_begun(path: Path) -> bool:
    """Whether a folder holds a run."""
    # `os.path` has an answer for names that are too long.
    return os.path.exists(path / JOURNAL)  # noqa: PTH110


class RunFolder:
    """A folder that holds one search; RunFolderError: it is none, or has a link out of it."""

    def __init__(self, path: Path) -> None:
        if not os.path.exists(path):  # noqa: PTH110 - Path's raises for names that are too long
            raise RunFolderError(
                f"{path} does not exist; start a run with `evomerge search FILE --run "
                f"{shlex.quote(str(path))}`."
            )
        if path.is_dir():
            files = entries(path, RunFolderError)
            check_ordinary(files, RunFolderError)
            # A search writes to all of it.
            check_inside(files, [path.resolve()], "the run", RunFolderError)
        for name in (CONFIG, JOURNAL):
            if not (path / name).is_file():
                raise RunFolderError(
                    f"{path} is not a run folder: it has no {name}; give the folder that was "
                    "given to --run."
                )
        self.path, self.journal_path = path, path / JOURNAL
        self.timings = Timings(path / "timings.jsonl")

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Raise a RunFolderError if no run can be created here, a RunInUseError if one was."""
        if is_begun(path):
            raise RunInUseError(
                f"{path} already holds a run; go on with it by --resume (in Python "
                "`resume=True`), or name another folder."
            )
        if os.path.exists(path) and (not path.is_dir() or any(path.iterdir())):  # noqa: PTH110
            raise RunFolderError(f"{path} exists and is no run folder; name a new or empty one.")
        check_writable(path, f"{path} cannot be created", _WRITE, RunFolderError)

    @classmethod
    def create(cls, path: Path, search: str, manifest: Mapping[str, Any]) -> RunFolder:
        """Create a run in one step, of the search file as written and what was resolved."""
        cls.check_free(path)
        content = yaml_mapping(search, str(path / CONFIG), "a search file", RunFolderError)
        signed = {**manifest, _DIGEST: _digest([content, manifest])}
        files = {CONFIG: search, MANIFEST: json.dumps(signed, indent=1) + "\n"}
        try:
            create_folder(path, {**files, JOURNAL: Lines().encode(HEADER).decode()})
        except OSError as error:
            cls.check_free(path)
            raise not_written(str(path), error, _WRITE, RunFolderError) from error
        return cls(path)

    def record(self, moves: Sequence[str] = ()) -> Record:
        """Return what was resolved when the run began.

        `moves`: `key.path=value` of what is to differ in the search file.

        InputError: as for `manifest`, or a mistake.
        """
        from evomerge.config.executor import executor_of_run
        from evomerge.config.record import parse_record
        from evomerge.config.schema import override

        manifest = self.manifest()
        config = manifest["config"]
        kind = config.get("executor", {}).get("kind")
        for item in moves:
            override(config, item)
        config["executor"] = executor_of_run(config.get("executor", {}), kind, moves)
        return parse_record(manifest, str(self.path / MANIFEST))

    def written(self) -> dict[str, Any]:
        """Return the content of the search file as the user wrote it; see `manifest`."""
        file = self.path / CONFIG
        text = read_text(file, RunFolderError)
        return yaml_mapping(text, str(file), "a search file", RunFolderError)

    def manifest(self) -> dict[str, Any]:
        """Return the manifest; RunFolderError: it, or the search file, was changed by hand."""
        file = self.path / MANIFEST
        again = f"{self.path} has no {MANIFEST}; put it back from a copy, or start a new run."
        manifest = json_value(read_text(file, RunFolderError, again), str(file), RunFolderError)
        digest = manifest.pop(_DIGEST, None) if isinstance(manifest, dict) else None
        if digest != _digest([self.written(), manifest]) or "config" not in manifest:
            raise RunFolderError(
                f"{CONFIG} or {MANIFEST} of {self.path} was changed after the run began, or is of "
                "another version of evomerge; put it back as it was, start a new run, or give "
                "`evomerge resume` the change "
                "(--candidates, --hours, --patience, --target, --set executor.KEY=VALUE)."
            )
        return dict(manifest)

    @property
    def digest(self) -> str:
        """Digest of what the course of the search depends on: not of its workers and its place."""
        manifest = self.manifest()
        sections = {k: v for k, v in manifest.pop("config").items() if k != "executor"}
        return _digest(sections | {"frozen": {k: v for k, v in manifest.items() if k != "folder"}})

    def events(self) -> list[Event]:
        """Return the complete events of the journal; RunFolderError: it is missing or damaged."""
        return read(self.journal_path)

    @contextmanager
    def writing(self) -> Iterator[Journal]:
        """Open the journal for this process alone.

        What killed writers have left is removed, and what asked an earlier session to stop.
        """
        with Journal(self.journal_path) as journal:
            self.stop_file.unlink(missing_ok=True)
            for folder in (self.path, self.path / "front", self.path / MODELS):
                remove_abandoned(folder)
            yield journal

    def remove(self) -> None:
        """Remove the run, after its search could not begin."""
        log.warning("Nothing was scored, so the run folder %s was removed.", self.path)
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def is_running(self) -> bool:
        """Whether a process is writing to this run now."""
        return is_held(self.journal_path)

    @property
    def why_not_in_mergekit(self) -> str | None:
        """Why there is no mergekit file of the best merge; None if there is one, or no merge."""
        file = self.path / NOT_IN_MERGEKIT
        return read_text(file, RunFolderError).strip() if file.is_file() else None

    @property
    def stop_file(self) -> Path:
        """What is there if `ask_to_stop` was called since the search was started or continued."""
        return self.path / STOP

    def ask_to_stop(self) -> None:
        """Ask the process that searches to begin no further candidate, and to do the final scores.

        RunFolderError: no process is searching.
        """
        if not self.is_running:
            raise RunFolderError(
                f"No search is running in {self.path}, so there is nothing to stop; `evomerge "
                f"status {shlex.quote(str(self.path))}` says how far it is."
            )
        self.write(STOP, "")

    def write(self, name: str, text: str) -> None:
        """Write a file of the run, so that it is never seen half written."""
        replace_text(self.path / name, text)

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Write log messages to the run's `log.txt` too; OSError: one cannot be written."""
        file = _LogFile(self.path / "log.txt", encoding="utf-8")
        file.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
        logger = logging.getLogger("evomerge")
        # The last resort prints warnings, but only where there is no other handler.
        last = None if logger.hasHandlers() else logging.lastResort
        handlers, level = [file, *([last] if last else [])], logger.level
        for handler in handlers:
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.setLevel(level)
            for handler in handlers:
                logger.removeHandler(handler)
            file.close()


class PlainFormatter(logging.Formatter):
    """Formats as its base class does, without characters that steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, which may quote a file, with a traceback if it has one."""
        return without_controls(super().format(record))


class _LogFile(logging.FileHandler):
    """A log file that raises an error if it cannot be written, where logging prints a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - named by logging
        raise  # the error that logging has caught


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
