"""Reads the documents beside the task files, wherever the package is installed.

lm-eval resolves data files against the working directory but `!function` against the folder of the
YAML that names it, which is why the tasks load their documents through `load`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset


def load(file: str = "", **_: Any) -> dict[str, Dataset]:
    """The documents of `file`, a JSON-lines name in this folder, as lm-eval's split `test`.

    lm-eval passes the task's `dataset_kwargs` and `metadata` together; only `file` is ours.
    """
    lines = (Path(__file__).resolve().parent / file).read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}
