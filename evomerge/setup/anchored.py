"""Making references absolute, so that a run can be resumed from anywhere."""

from __future__ import annotations

from pathlib import Path

from evomerge.models.references import MERGE, RUN, is_file, is_folder, place
from evomerge.run.folder import STAGES, RunFolder


def anchored_folder(path: str, relative_to: Path) -> str:
    """Return the absolute path of a folder; the text itself if there is no such folder.

    Args:
        path: path of a folder, or any other text, such as a Hub id.
        relative_to: folder of relative paths; if nothing is there, the working folder is tried.
    """
    for folder in (relative_to, Path.cwd()):
        found = place(path, folder)
        if is_folder(found):
            return str(found.resolve())
    return path


def anchored_file(path: str, relative_to: Path) -> str:
    """Return the absolute path of a file; the text itself if there is no such file.

    Args:
        path: path of a file.
        relative_to: folder of relative paths; if nothing is there, the working folder is tried.
    """
    files = (place(path, folder) for folder in (relative_to, Path.cwd()))
    return next((str(file.resolve()) for file in files if is_file(file)), path)


def anchored_parent(reference: str, relative_to: Path) -> str:
    """Return the reference of a parent with absolute paths of local folders and files.

    Args:
        reference: a parent as in a search file.
        relative_to: folder of relative paths; if nothing is there, the working folder is tried.
    """
    if reference.startswith(RUN):
        found = anchored_folder(reference.removeprefix(RUN), relative_to)
        # A search in stages means its latest stage, and later this may be another one.
        staged = is_folder(Path(found)) and (Path(found) / STAGES).is_file()
        return RUN + (str(RunFolder(Path(found)).path) if staged else found)
    if reference.startswith(MERGE):
        return MERGE + anchored_file(reference.removeprefix(MERGE), relative_to)
    model, plus, adapter = reference.partition("+")
    folders = (anchored_folder(model, relative_to), anchored_folder(adapter, relative_to))
    return f"{folders[0]}{plus}{folders[1] if adapter else ''}"
