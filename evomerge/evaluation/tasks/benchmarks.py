"""A warning for searches that optimize on the test documents of a well-known benchmark."""

from __future__ import annotations

import re

from evomerge.evaluation.tasks.info import TaskInfo

_KNOWN = re.compile(
    r"^(mmlu|gsm8k|gsm_plus|mgsm|hellaswag|arc_(easy|challenge)|winogrande|truthfulqa|bbh|gpqa|"
    r"ifeval|humaneval|mbpp|piqa|boolq|openbookqa|lambada|triviaqa|nq_open|squad|drop|race|"
    r"hendrycks|minerva_math|math_|musr|leaderboard|agieval|cmmlu|ceval|jmmlu|xnli|xcopa|belebele|"
    r"wikitext|super_?glue|glue|anli|commonsense_qa|social_iqa|sciq|logiqa|toxigen|aime)"
)


def benchmark_warning(task: TaskInfo) -> str | None:
    """Return a warning if a search would optimize on a public benchmark's own test documents."""
    split = task.task_splits.get(task.task_split, task.task_split).lower()
    if not _KNOWN.match(task.name.lower()) or not split.startswith(("test", "val")):
        return None
    own = "a task of your own in evaluation.include (a translation of it, or your own questions)"
    if "training" in task.task_splits:
        own = f"its training documents (evaluation.search.task_split: training), or {own}"
    return (
        f"the search optimizes on the {split} documents of the public benchmark {task.name!r}, so "
        "its score on that benchmark will say nothing about other models' scores on it; search on "
        f"{own}, and keep the benchmark for the test (--allow-benchmarks silences this)."
    )
