"""Upload an exported model to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import CheckpointError, EvomergeError, InputError, one_line


def push_model(model: Path, repository: str, *, private: bool) -> str:
    """Create the repository if needed, upload every file of `model`, return the commit's address.

    Raises:
        CheckpointError: the folder is not an exported model.
        InputError: the id cannot be one.
        EvomergeError: the Hub refused or was not reached.
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
        made = api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=made.repo_id, folder_path=str(model)))
    except Exception as error:  # the Hub's client raises many unrelated kinds
        raise EvomergeError(
            f"{model} could not be pushed to {repository}: {one_line(error).rstrip('.')}; "
            "check the id, the network and your token (`hf auth login`)."
        ) from error
