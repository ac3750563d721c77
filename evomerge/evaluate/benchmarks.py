"""Well-known benchmarks, and what to say to a person who optimizes on one."""

from __future__ import annotations

import re

from evomerge.evaluate.facts import TaskFacts

_KNOWN = re.compile(
    r"^(mmlu|gsm8k|gsm_plus|mgsm|hellaswag|arc_(easy|challenge)|winogrande|truthfulqa|bbh|gpqa|"
    r"ifeval|humaneval|mbpp|piqa|boolq|openbookqa|lambada|triviaqa|nq_open|squad|drop|race|"
    r"hendrycks|minerva_math|math_|musr|leaderboard|agieval|cmmlu|ceval|jmmlu|xnli|xcopa|belebele|"
    r"wikitext|super_?glue|glue|anli|commonsense_qa|social_iqa|sciq|logiqa|toxigen|aime)"
)


def benchmark_warning(task: TaskFacts) -> str | None:
    """Return a warning if a search would optimize on a public benchmark's own test documents."""
    part = task.source[1].lower()
    if not _KNOWN.match(task.name.lower()) or not part.startswith(("test", "val")):
        return None
    return (
        f"the search optimizes on the {part} documents of the public benchmark {task.name!r}, so "
        "its score on that benchmark will say nothing about other models' scores on it; take "
        "documents of another source (the benchmark's training split, or a translation of it) as "
        "a task of your own in evaluation.include, and keep the benchmark for the very end "
        "(--allow-benchmarks silences this)."
    )
