"""Resolving references of parents: embedded models, local folders, the Hugging Face Hub."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from evomerge.errors import CheckpointError, one_line
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import TOKENIZER_FILES, is_from_hub
from evomerge.models.gguf import ENDING, check_file, converted_file, split_file

RUN = "run:"
"""Prefix of a run that a search starts from; see `evomerge.strategy.optimizers`."""

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_WANTED = ["*.safetensors", "*.json", "*.jinja", "README.md", "*/pytorch_model.bin"]
_WANTED += TOKENIZER_FILES


def place(text: str, relative_to: Path) -> Path:
    """Return the path that a text in a file means; a leading `~` is the home folder."""
    return relative_to / os.path.expanduser(text)  # noqa: PTH111 - Path's raises for `~nobody`


def is_folder(path: Path) -> bool:
    """Whether a path is an existing folder; False for a text that cannot be the name of a file."""
    return os.path.isdir(path)  # noqa: PTH112 - Path's raises for names that are too long


def is_there(path: Path) -> bool:
    """Whether a path is the folder of a model or adapter, or a GGUF file, and exists."""
    return is_folder(path) or (path.suffix == ENDING and is_file(path))


def is_file(path: Path) -> bool:
    """Whether a path is an existing file; False for a text that cannot be the name of a file."""
    return os.path.isfile(path)  # noqa: PTH113 - Path's raises for names that are too long


def split_adapter(reference: str, relative_to: Path) -> tuple[str, str, str]:
    """Return the model of a reference, the `+`, and the adapter; the last two are empty without it.

    A `+` can also be part of the name of a folder, if no adapter follows.
    """
    is_model = is_there(place(reference, relative_to))
    return (reference, "", "") if is_model else reference.partition("+")


def open_parent(reference: str, relative_to: Path) -> Checkpoint:
    """Open the checkpoint of a reference; a model on the Hub is downloaded.

    A reference is `zoo:NAME`, a folder, `org/name[@revision]`, a GGUF file or
    `org/name:file.gguf`; `+ADAPTER` may follow.
    CheckpointError: the model or adapter does not exist, or it is damaged.
    """
    check_reference(reference, relative_to)
    model, _, adapter = split_adapter(reference, relative_to)
    folder = resolve(model, relative_to)
    if is_from_hub(folder) and not any(folder.glob("*.safetensors")):
        folder = resolve(model, relative_to, [*_WANTED, "pytorch_model*.bin"])
    inside = resolve(adapter, relative_to) if adapter else None
    return Checkpoint.open(folder, reference, adapter=inside)


def resolve(reference: str, relative_to: Path, wanted: Sequence[str] = _WANTED) -> Path:
    """Return the local folder of a model or adapter. What is on the Hub is downloaded."""
    repository, file = split_file(reference)
    if not repository and (local := local_folder(reference, relative_to)) is not None:
        return local
    from huggingface_hub import hf_hub_download, snapshot_download

    name, _, revision = (repository or reference).partition("@")
    try:
        if repository:
            found = hf_hub_download(name, file, revision=revision or None)
            return converted_file(Path(found), reference)
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(wanted)))
    except CheckpointError:
        raise
    except Exception as error:  # the client of the Hub raises errors of many unrelated types
        raise CheckpointError(
            f"Parent {reference!r} is not a local folder, and {_why_not_fetched(error)}"
        ) from error


def check_reference(reference: str, relative_to: Path) -> None:
    """Raise an InputError if a reference names no model, or a folder that does not exist."""
    model, plus, adapter = split_adapter(reference, relative_to)
    if plus and not adapter:
        raise CheckpointError(
            f"Parent {reference!r} has no adapter after the `+`; add one, or remove the `+`."
        )
    for part in filter(None, (model, adapter)):
        if is_file(file := place(part, relative_to)) and file.suffix == ENDING:
            check_file(file, reference)
        elif not split_file(part)[0]:
            local_folder(part, relative_to)


def local_folder(reference: str, relative_to: Path) -> Path | None:
    """Return the local folder of a model or adapter; None: it is on the Hub.

    InputError: there is no such folder or embedded model, and it is no Hub id.
    """
    if reference.startswith("zoo:"):
        from evomerge import zoo

        return zoo.path(reference.removeprefix("zoo:"))
    local = place(reference, relative_to)
    if is_folder(local):
        return local
    if local.suffix == ENDING and is_file(local):
        return converted_file(local, reference)
    if reference.startswith((".", "/", "~")) or not _HUB.fullmatch(reference):
        why = "is a file" if is_file(local) else "does not exist"
        raise CheckpointError(
            f"Parent {reference!r} is not a folder ({str(local)!r} {why}); give a folder, such as "
            "`evomerge export` and `evomerge merge` write, a Hub id `org/name`, or `zoo:NAME`."
        )
    return None


def hub_id(reference: str) -> str | None:
    """Return the Hub id (`org/name`) in a reference, or None if the model is not on the Hub."""
    model = reference.partition("+")[0]
    if model.startswith(".") or not _HUB.fullmatch(model):
        return None
    return model.partition("@")[0]


def _why_not_fetched(error: Exception) -> str:
    from huggingface_hub import errors

    log_in = "log in with `hf auth login`."
    known = {
        errors.GatedRepoError: "the Hugging Face Hub gives this model only to people who accepted "
        f"its terms; accept them on the model's page, then {log_in}",
        errors.RepositoryNotFoundError: "the Hugging Face Hub has no such model, or it is private; "
        f"check the id, or {log_in}",
        errors.RevisionNotFoundError: "the Hugging Face Hub does not have this revision of it; "
        "check what follows the `@`.",
        errors.LocalEntryNotFoundError: "the Hugging Face Hub cannot be reached (offline, or "
        "HF_HUB_OFFLINE is set); go online, or give the folder of a copy.",
    }
    usual = f"its download failed ({one_line(error)}); try again, or give the folder of a copy."
    # A GatedRepoError is a RepositoryNotFoundError too.
    return next((why for kind, why in known.items() if isinstance(error, kind)), usual)
