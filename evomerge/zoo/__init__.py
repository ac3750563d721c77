"""The embedded model family: one base, three experts tuned from it, and the tasks they are good at.

Everything lies in the package: `zoo:NAME` in a search file means `path(NAME)`, and `tasks_path()`
is a folder that lm-eval reads with `--include_path`. `scripts/train_zoo.py` made all of it, and
TRAINING.md beside this file says how and with what result.
"""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import InputError, did_you_mean

_HERE = Path(__file__).resolve().parent


def names() -> list[str]:
    """The names of the embedded models, sorted."""
    return sorted(folder.name for folder in (_HERE / "models").iterdir() if folder.is_dir())


def path(name: str) -> Path:
    """The folder of an embedded model, an ordinary Hugging Face checkpoint.

    `name` comes without the `zoo:` prefix. Raises InputError for a name that is not embedded.
    """
    allowed = names()
    if name not in allowed:
        raise InputError(
            f"There is no embedded model zoo:{name}; there are "
            f"{', '.join(f'zoo:{known}' for known in allowed)}.{did_you_mean(name, allowed)}"
        )
    return _HERE / "models" / name


def tasks_path() -> Path:
    """The folder with the lm-eval YAML of the embedded tasks and their documents."""
    return _HERE / "tasks"
