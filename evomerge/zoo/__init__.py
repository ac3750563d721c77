"""The embedded models: a tiny base model, four experts fine-tuned from it, and lm-eval tasks.

They are files of this package. In a search file, `zoo:NAME` means the folder `path(NAME)`;
`tasks_path()` is a folder for lm-eval's `--include_path`. `scripts/zoo/train.py` made all of them;
TRAINING.md in this folder describes the training and its results.
"""

from pathlib import Path

from evomerge.errors import InputError, among

_HERE = Path(__file__).resolve().parent


def names() -> list[str]:
    """Return the names of the embedded models, sorted."""
    return sorted(folder.name for folder in (_HERE / "models").iterdir() if folder.is_dir())


def path(name: str) -> Path:
    """Return the folder of an embedded model, an ordinary Hugging Face checkpoint.

    Raises:
        InputError: there is no embedded model with this name.
    """
    allowed = names()
    if name not in allowed:
        known = among(f"zoo:{name}", (f"zoo:{item}" for item in allowed))
        raise InputError(f"There is no embedded model zoo:{name}; there are {known}")
    return _HERE / "models" / name


def tasks_path() -> Path:
    """Return the folder with the lm-eval YAML and the documents of the embedded tasks."""
    return _HERE / "tasks"
