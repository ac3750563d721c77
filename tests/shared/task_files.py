"""Writing a task of lm-eval whose documents are rows of a file."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_task(folder: Path, name: str, rows: Iterable[Any], **body: Any) -> str:
    """Write a task that generates the column `a` for the column `q`, or that `body` describes."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}}
    texts = {"output_type": "generate_until", "doc_to_text": "q", "doc_to_target": "a"}
    task = {"task": name, **data, "test_split": "test", **texts, **body}
    (folder / f"{name}.yaml").write_text(json.dumps(task))
    return name
