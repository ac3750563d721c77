"""Uploading an exported model to the Hugging Face Hub (`evomerge push`)."""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import CheckpointError, EvomergeError, InputError, one_line


def push_model(model: Path, repository: str, *, private: bool) -> str:
    """Upload every file of a model folder; the repository is created if it does not exist.

    Args:
        model: folder of an exported model.
        repository: id of the repository, `org/name`, or `name` alone for one of the user's own.
        private: whether a new repository is private; an existing one stays as it is.

    Returns:
        the URL of the commit.

    Raises:
        CheckpointError: the folder is not a model folder.
        InputError: `repository` is not a valid id.
        EvomergeError: the Hub refused the upload or could not be reached.
    """
    if not (model / "config.json").is_file() or not list(model.glob("*.safetensors")):
        raise CheckpointError(
            f"{model} is not a model folder (config.json and *.safetensors are needed); "
            f"make one with `evomerge export RUN --out {model}`."
        )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(
            f"REPO_ID is {repository!r}; it must be `org/name`, made of letters, digits, '-', '_' "
            "and '.', 96 characters at most."
        ) from error
    api = HfApi()
    try:
        created = api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=created.repo_id, folder_path=str(model)))
    except Exception as error:  # the Hub's client raises exceptions of many unrelated classes
        raise EvomergeError(
            f"{model} could not be pushed to {repository}: {one_line(error).rstrip('.')}; "
            "check the id, the network and your token (`hf auth login`)."
        ) from error
