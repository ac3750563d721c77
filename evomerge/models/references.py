"""Where a parent reference leads: an embedded model, a local folder, or the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import TOKENIZER_FILES, Checkpoint
from evomerge.models.safetensors import read_json

RUN = "run:"
"""Begins a reference to the best model of another run; see `evomerge.setup.runs`."""

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_WANTED = ["*.safetensors", "*.json", "*.jinja", *TOKENIZER_FILES]
_PICKLES = ["pytorch_model*.bin"]


def place(text: str, relative_to: Path) -> Path:
    """Return the path that a text in a file stands for; `~` is the home folder, if there is one."""
    return relative_to / os.path.expanduser(text)  # noqa: PTH111 - Path's raises for `~nobody`


def is_folder(path: Path) -> bool:
    """Whether a folder is there; a text that no file system takes as a name is no folder."""
    return os.path.isdir(path)  # noqa: PTH112 - Path's raises for names that are too long


def open_parent(reference: str, relative_to: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Open what a reference names, `model` or `model+adapter`.

    Args:
        reference: `zoo:NAME`, a folder, `org/name[@revision]`, each with `+ADAPTER` or without.
        relative_to: folder that relative paths start from (the search file's).
        allow_pickle: accept weights in pickles.

    Raises:
        CheckpointError: nothing is there, or it is damaged.
    """
    model, plus, adapter = reference.partition("+")
    if plus and not adapter:
        raise CheckpointError(f"Parent {reference!r} names no adapter behind the `+`.")
    return Checkpoint.open(
        resolve(model, relative_to, allow_pickle=allow_pickle),
        reference,
        adapter=resolve(adapter, relative_to) if adapter else None,
        allow_pickle=allow_pickle,
    )


def resolve(reference: str, relative_to: Path, *, allow_pickle: bool = False) -> Path:
    """Return the local folder of a model or adapter, fetching it from the Hub where needed.

    Only weights in safetensors, JSON files and tokenizer files are fetched.

    Raises:
        CheckpointError: there is no such folder, embedded model or Hub repository.
    """
    if reference.startswith("zoo:"):
        from evomerge import zoo

        return zoo.path(reference.removeprefix("zoo:"))
    local = place(reference, relative_to)
    if is_folder(local):
        return local
    if reference.startswith((".", "/", "~")) or not _HUB.fullmatch(reference):
        raise CheckpointError(
            f"Parent {reference!r} is no folder (looked at {str(local)!r}); give a folder, a Hub "
            "id `org/name` or `zoo:NAME`."
        )
    return _fetch(reference, [*_WANTED, *(_PICKLES if allow_pickle else ())])


def hub_id(reference: str) -> str | None:
    """Return the Hub id of a parent's model, without revision and adapter; None of any other.

    Args:
        reference: as a run has it, in which a local folder is an absolute path.
    """
    model = reference.partition("+")[0]
    if model.startswith(".") or not _HUB.fullmatch(model):
        return None
    return model.partition("@")[0]


def read_config(reference: str, relative_to: Path) -> dict[str, Any]:
    """Return a model's `config.json`; of a model on the Hub nothing else is fetched.

    Raises:
        CheckpointError: there is no such model.
    """
    model = reference.partition("+")[0]
    if _is_on_hub(model, relative_to):
        return read_json(_fetch(model, ["config.json"]) / "config.json")
    return read_json(resolve(model, relative_to) / "config.json")


def _is_on_hub(reference: str, relative_to: Path) -> bool:
    return (
        not reference.startswith((".", "/", "~", "zoo:"))
        and _HUB.fullmatch(reference) is not None
        and not is_folder(relative_to / reference)
    )


def _fetch(reference: str, wanted: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = reference.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))
    except Exception as error:  # the Hub's client raises many unrelated kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"Parent {reference!r} is no local folder and cannot be fetched from the Hugging Face "
            f"Hub ({reason}); check the id, the revision and your token (`hf auth login`), or "
            "download it and give the folder."
        ) from error
