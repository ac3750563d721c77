"""Warnings for tasks that ask for several texts for each document and do not use them."""

from __future__ import annotations

from evomerge.evaluation.tasks.info import TaskInfo


def repeats_warning(task: TaskInfo) -> str | None:
    """Return a warning if a task's `repeats` are of no use."""
    if task.repeats == 1 or task.kind != "generate_until":
        return None
    if not task.is_sampled:
        return (
            f"task {task.name!r} has repeats: {task.repeats}, but decodes greedily, so all "
            f"{task.repeats} texts of a document are equal (evomerge generates one); sample them "
            "(evaluation.generation: {do_sample: true, temperature: 0.6}), or set repeats to 1 in "
            "its YAML."
        )
    if not task.has_filters:
        return (
            f"task {task.name!r} samples {task.repeats} texts for each document, but has no "
            "filter_list, so lm-eval only reads the first of them; add filters that read all, such "
            "as majority_vote, or set repeats to 1 in its YAML."
        )
    return None
