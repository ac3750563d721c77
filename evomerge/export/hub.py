"""Uploading an exported model to the Hugging Face Hub (`evomerge push`).

`upload_folder` is used, and not `upload_large_folder`, which writes into the model's folder and is
gone from newer clients: the Hub stores the content of a large file by its digest, so after a kill
the same call uploads only what is missing. All files appear in one commit, or in few if there are
hundreds, so that nobody sees a model without some of its weights.
"""

import glob
import re
from pathlib import Path

from evomerge.errors import CheckpointError, EvomergeError, InputError, one_line
from evomerge.models.safetensors import read_folder, read_header
from evomerge.parsing.texts import check_inside, check_ordinary

_LOCAL_PATH = re.compile(r"(^|[\s\[{(,:+'\"])(/|~/)[\w.~-]", re.MULTILINE)


def files_to_push(model: Path, repository: str) -> tuple[list[str], list[str]]:
    """Return the files of a model to upload, and the names of recipes with paths of this machine.

    What git and the Hub's client keep there (`.git`, `.cache`) is in neither of both.

    Raises:
        CheckpointError: the folder is no model folder, a weight file is not whole or missing, or
            something in it is no file.
        InputError: the repository's id is not valid.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HFValidationError

    try:
        hf_hub_url(repository, "config.json")  # asks nobody
    except HFValidationError as error:
        raise InputError(
            f"{repository!r} cannot be a repository: {_reason(error)}; check the id."
        ) from error
    _check_folder(model)
    left_out = [  # an absolute path may name a user
        file.name
        for file in sorted((*model.glob("*.yaml"), *model.glob("*.yml")))
        if _LOCAL_PATH.search(file.read_text(encoding="utf-8", errors="replace"))
    ]
    paths = [file.relative_to(model) for file in sorted(model.rglob("*")) if file.is_file()]
    files = [str(path) for path in paths if not {".git", ".cache"} & {*path.parts}]
    return [name for name in files if name not in left_out], left_out


def push_model(model: Path, repository: str, *, private: bool) -> tuple[str, list[str]]:
    """Upload the files of a model folder; the same call goes on if it was interrupted.

    Returns the address of the commit, and what was left out; see `files_to_push`. The repository
    (`org/name`, or `name` of the user's own) is created if it does not exist.

    Raises:
        CheckpointError: as of `files_to_push`.
        InputError: so, too, or the repository is not private or public as asked.
        EvomergeError: the Hub refused the upload or could not be reached.
    """
    files, left_out = files_to_push(model, repository)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import BadRequestError

    api = HfApi()
    try:
        name = api.create_repo(repository, private=private, exist_ok=True).repo_id
        is_private = bool(api.model_info(name).private)
        if is_private == private:
            commit = api.upload_folder(
                repo_id=name,
                folder_path=str(model),
                commit_message="Upload a merge made by evomerge",
                allow_patterns=[*map(glob.escape, files)],
            )
            return commit.commit_url, left_out
    except BadRequestError as error:
        raise InputError(
            f"The Hub refuses {model} as {repository!r}: {_reason(error)}; check the id."
        ) from error
    except Exception as error:  # the Hub's client raises exceptions of many unrelated classes
        raise EvomergeError(
            f"{model} could not be pushed to {repository}: {_reason(error)}; check the id, the "
            "network and your token (`hf auth login`), then give the same command again."
        ) from error
    raise InputError(
        f"The repository {name} {'is private' if is_private else 'exists and is public'}, so "
        f"nothing was uploaded; give {'--private' if is_private else '--public'}, change this in "
        "its settings on the Hub, or name another repository."
    )


def _check_folder(model: Path) -> None:
    if not (model / "config.json").is_file() or not [*model.glob("*.safetensors")]:
        raise CheckpointError(
            f"{model} is not a model folder (config.json and *.safetensors are needed); give the "
            "folder that `evomerge export RUN --out FOLDER` wrote."
        )
    files = sorted(model.rglob("*"))
    check_ordinary(files, CheckpointError)
    check_inside(files, [model.resolve()], "the model", CheckpointError)
    read_folder(model)  # whether all shards of the index are there
    for file in files:
        if file.suffix == ".safetensors":
            read_header(file)


def _reason(error: Exception) -> str:
    """Return the message of an error without the user's token, which it may quote."""
    from huggingface_hub import get_token

    token = get_token()
    lines = [line for line in str(error).splitlines() if line.strip()]
    # The client puts what the Hub says on the line after `Bad request:`.
    text = one_line(" ".join(lines[:2]) if lines and lines[0].endswith(":") else error)
    return (text.replace(token, "(token)") if token else text).rstrip(".:; ")
