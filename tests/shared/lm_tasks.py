"""Tasks of lm-eval: to write one, to know only a few, and what an evaluator asks of models."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager

from evomerge.config.evaluation import ENGINES
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.inference.reference import Reasoning
from evomerge.evaluation.lm_eval.objective import LmEval
from evomerge.evaluation.lm_eval.requests import Runner


def write_task(folder: Path, name: str, rows: Iterable[Any], **body: Any) -> str:
    """Write a task that generates the column `a` for the column `q`, or that `body` describes."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}}
    texts = {"output_type": "generate_until", "doc_to_text": "q", "doc_to_target": "a"}
    task = {"task": name, **data, "test_split": "test", **texts, **body}
    (folder / f"{name}.yaml").write_text(json.dumps(task))
    return name


def only(*folders: str) -> type[TaskManager]:
    """Return a `TaskManager` that knows of lm-eval's own tasks those in these folders."""
    home = Path(lm_eval.tasks.__file__).parent

    class FewTasks(TaskManager):
        def __init__(
            self,
            include_path: str | list[str] | None = None,
            include_defaults: bool = True,
            **options: Any,
        ) -> None:
            given = [include_path] if isinstance(include_path, str) else include_path or []
            known = [str(home / name) for name in folders] if include_defaults else []
            super().__init__(include_path=[*given, *known], include_defaults=False, **options)

    return FewTasks


def asking(harness, batch_size="auto", backend="hf", reasoning=None, **options):
    runner = Runner(
        batch_size=batch_size, engine=ENGINES.get(backend), reasoning=reasoning or Reasoning()
    )
    return Evaluator([LmEval(harness, runner, **options)])


def lm_eval_of(evaluator):
    return next(item for item in evaluator.every if isinstance(item, LmEval))


def runner_of(evaluator):
    return lm_eval_of(evaluator).runner


def requests_of(evaluator, task, split="search"):
    objective = evaluator.tasks_of(split).of(task)
    return {i: objective.requests.get(task, i) for i in sorted(evaluator.splits[split][task])}
