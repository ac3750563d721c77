"""What is private in lm-eval, or differs between its versions from 0.4.12 on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.compat import need


class Entry(NamedTuple):
    """Where lm-eval has a task or a group from: a file, or the tasks that have a tag."""

    file: Path | None
    tagged: tuple[str, ...]


class Index:
    """Where a `TaskManager` has its tasks, groups and tags from; nothing of them is loaded."""

    def __init__(self, manager: Any) -> None:
        self._entries = need("lm_eval", manager, "task_index")

    def get(self, name: str) -> Entry | None:
        """Return where a task, group or tag is from; None: there is none of this name."""
        entry = self._entries.get(name)
        tagged = () if entry is None or entry.yaml_path else tuple(sorted(entry.tags))
        return None if entry is None else Entry(entry.yaml_path, tagged)


class Group(NamedTuple):
    """A group: the names of all tasks in it, and the settings of the metrics that it averages."""

    tasks: tuple[str, ...]
    averages: list[Mapping[str, Any]]


def load_tasks(manager: Any, spec: Any) -> tuple[dict[str, Any], dict[str, Group]]:
    """Return lm-eval's task objects and groups, by name.

    Args:
        manager: a `TaskManager`.
        spec: the name of a task or group; or a group that contains a dictionary, with the name of a
            task and keys to change, which is accepted inside of a group only.
    """
    tasks: dict[str, Any] = {}
    groups: dict[str, Group] = {}
    loaded = manager.load([spec])
    for task in loaded["tasks"].values():
        tasks[task.task_name] = task
    for name, group in loaded.get("groups", {}).items():
        below = tuple(task.task_name for task in need("lm_eval", group, "get_all_tasks")())
        averages = need("lm_eval", group, "aggregate_metric_list") or []
        groups[name] = Group(below, [vars(item) for item in averages])
    return tasks, groups


@contextmanager
def only_documents(task: Any, ids: Sequence[int]) -> Iterator[None]:
    """Let a task read only these documents, in this order, while it builds requests.

    lm-eval itself reads all documents of a task to find some, which takes seconds for large tasks.
    """
    need("lm_eval", task, "doc_iterator")
    documents = task.eval_docs
    task.doc_iterator = lambda **_: enumerate(documents[i] for i in ids)
    try:
        yield
    finally:
        del task.doc_iterator


def filters_of(task: Any) -> list[Any]:
    """Return a task's filters, which set `filtered_resps[filter.name]` of instances."""
    filters: list[Any] = need("lm_eval", task, "_filters")
    return filters


def encode_pair(lm: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a context and of its continuation, as an `HFLM` encodes them."""
    before, after = need("lm_eval", lm, "_encode_pair")(context, continuation)
    return before, after


def seeing(processor: Any) -> type[Any]:
    """Return lm-eval's class for models that see, with a processor that is loaded already."""
    from lm_eval.models.hf_vlms import HFMultimodalLM

    need("lm_eval", HFMultimodalLM, "_create_tokenizer")

    class Seeing(HFMultimodalLM):  # type: ignore[misc]
        def _create_tokenizer(self, *arguments: Any, **options: Any) -> None:
            self.processor, self.tokenizer = processor, processor.tokenizer

    return Seeing


def replace_model(lm: Any, model: Any) -> None:
    """Let an `HFLM` generate with another model."""
    need("lm_eval", lm, "_model")
    lm._model = model
