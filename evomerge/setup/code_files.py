"""The files with code that a search file names, and what a run's frozen search file allows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from evomerge.config.schema import Frozen, SearchConfig
from evomerge.scores import SPLITS
from evomerge.trust.consent import CodeFile, is_recorded, read_code, record
from evomerge.trust.modules import files_of_module, is_of_host
from evomerge.trust.task_files import files_of_tasks


def code_files(config: SearchConfig, *, functions: bool = True) -> list[CodeFile]:
    """Return the files whose code runs when the tasks of a search file are loaded; nothing is run.

    Files of installed packages are not among them.

    Args:
        config: the search file, with absolute paths of local folders.
        functions: whether those of objective functions (`module:function`) are among them.

    Raises:
        ConfigError: a file cannot be read, or has code that no consent allows (pickles).
    """
    supplied = (getattr(config.evaluation, split).tasks.values() for split in SPLITS)
    names = dict.fromkeys([*config.tasks, *(name for split in supplied for name in split)])
    found: dict[Path, CodeFile] = {}
    for name in names:
        module, colon, _ = name.partition(":")
        if colon and functions:
            for file in files_of_module(module):
                found.setdefault(file, read_code(file, imported=is_of_host(module)))
    tasks = [name for name in names if ":" not in name]
    include = [Path(folder) for folder in config.evaluation.include if folder != "zoo:tasks"]
    for file in files_of_tasks(tasks, include) if tasks else []:
        found.setdefault(file, read_code(file))
    return list(found.values())


def is_permitted(frozen: Frozen) -> bool:
    """Return whether the user has allowed pickles or models' code in this run, on this machine.

    That the run folder says so is not enough, since it may come from somebody else.

    Args:
        frozen: the section `frozen` of the run's search file.
    """
    return is_recorded(_digest(frozen))


def keep_permission(frozen: Frozen, folder: Path) -> None:
    """Record what the section `frozen` of a run's search file allows as allowed by the user.

    Args:
        frozen: the section of a run that the user has started here.
        folder: the run folder, which only people read.
    """
    if frozen.allow_pickle or frozen.allow_code:
        record({_digest(frozen): f"allow_pickle and allow_code of {folder}"})


def _digest(frozen: Frozen) -> str:
    """Return a digest of what is allowed, and for which parents."""
    about = [frozen.allow_pickle, frozen.allow_code, frozen.parents]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
