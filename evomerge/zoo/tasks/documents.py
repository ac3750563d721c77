"""Loads the documents of the embedded tasks, wherever the package is installed.

lm-eval looks for data files in the working directory, but for a `!function` in the folder of the
task's YAML. So the tasks load their documents with the function `load`.
"""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset


def load(file: str = "", **_: Any) -> dict[str, Dataset]:
    """Return the documents of a JSON-lines file in this folder, as the split `test`.

    Args:
        file: the file's name. lm-eval passes the task's `dataset_kwargs` and `metadata` as
            keyword arguments; all others are ignored.
    """
    lines = (Path(__file__).resolve().parent / file).read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}
