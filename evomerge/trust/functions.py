"""The functions that task YAML names, taken from allowed files only."""

from __future__ import annotations

from importlib.machinery import all_suffixes
from pathlib import Path
from typing import Any

from evomerge.models.references import is_file
from evomerge.trust.loading import NotAllowedError, allowed, import_allowed, load_allowed, read
from evomerge.trust.task_files import file_of_function, functions_in


def allowed_function(name: str, folder: Path) -> Any:
    """Return a function that a YAML file outside of installed packages names.

    Args:
        name: what stands behind `!function`.
        folder: the folder of the YAML file.

    Raises:
        NotAllowedError: no allowed YAML file in the folder names it, or its file was not allowed.
        Exception: whatever the code of its module raises.
    """
    place, code = folder.resolve(), tuple(all_suffixes())
    files = (Path(path) for path in allowed() if not path.endswith(code))
    if not any(name in functions_in(read(file)) for file in files if file.parent == place):
        raise NotAllowedError(f"{place} has no YAML file that was allowed to run {name}")
    module, _, attribute = name.rpartition(".")
    file = file_of_function(name, folder)
    # lm-eval names the module for the file.
    found = load_allowed(str(file.with_suffix("")), file) if is_file(file) else None
    return getattr(found or import_allowed(module), attribute)
