"""Writes the lm-eval tasks of the showcase: one YAML file and three JSON-lines files for each.

    python -m scripts.real.tasks

Two folders are written. `tasks` has the documents of the pool "evaluation", which the results are
measured on. `development` has tasks of the same names with other documents, on which the settings
were chosen: `--set evaluation.include=[runs/showcase/development]` searches there.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from scripts.real import questions
from scripts.real.places import ROOT
from scripts.real.questions import Maker, Pool

TASKS: dict[str, Maker] = {
    "spanish_sums": questions.sums("es"),
    "json_backwards": questions.backwards(json=True),
    "json_sums": questions.sums("en", json=True),
    "spanish_json_sums": questions.sums("es", json=True),
}
"""Task -> its questions. No expert is trained on questions of these kinds."""

FOLDERS: dict[Pool, Path] = {"evaluation": ROOT / "tasks", "development": ROOT / "development"}

_SPLITS = {"training": 400, "validation": 400, "test": 600}
"""lm-eval's split -> number of documents. Searches and their finalists draw theirs by the seed."""

_LONGEST = 24  # tokens; the longest answer has 15


def write() -> None:
    """Write all tasks. The files are the same each time."""
    for pool, folder in FOLDERS.items():
        for task, maker in TASKS.items():
            write_task(folder, task, maker, pool)


def write_task(folder: Path, task: str, maker: Maker, pool: Pool) -> None:
    """Write the lm-eval task of a kind of questions, with the documents of a pool."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    documents = questions.draw(maker, pool, sum(_SPLITS.values()), task, unique=True)
    files, start = {}, 0
    for split, count in _SPLITS.items():
        file = (folder / "data" / f"{task}-{split}.jsonl").resolve()
        rows = documents[start : start + count]
        lines = [json.dumps({"prompt": row.prompt, "answer": row.answer}) for row in rows]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        files[split], start = str(file), start + count
    content = {
        "task": task,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "training_split": "training",
        "validation_split": "validation",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": _LONGEST},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / f"{task}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
