"""Upload an exported model to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import CheckpointError, EvomergeError


def push_model(model: Path, repository: str, *, private: bool) -> str:
    """Create the repository if needed, upload every file of `model`, return the commit's address.

    Raises:
        CheckpointError: the folder is not an exported model.
        EvomergeError: the Hub refused or was not reached.
    """
    if not (model / "config.json").is_file() or not list(model.glob("*.safetensors")):
        raise CheckpointError(
            f"{model} is not a model folder (config.json and *.safetensors are needed); "
            f"make one with `evomerge export RUN --out {model}`."
        )
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=str(model)))
    except Exception as error:  # the Hub's client raises many unrelated kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EvomergeError(
            f"{model} could not be pushed to {repository}: {reason}; "
            "check the id, the network and your token (`hf auth login`)."
        ) from error
