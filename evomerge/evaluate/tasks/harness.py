"""The seam to lm-eval's tasks (that to its models is `evomerge.evaluate.inference.reference`).

Relied on, of lm-eval 0.4.10 and newer:

- `TaskManager(include_path, include_defaults)`, `.all_tasks`, and to load tasks
  `TaskManager.load(names)` (from 0.4.12) or `lm_eval.tasks.get_task_dict(names, manager)` (before),
  both by name, or a group of tasks changed in `test_split` (only in a group do all versions take
  a dictionary as changes to the task of that name);
- of a `Task`: `get_config`, `set_config`, `set_fewshot_seed`, `eval_docs`, `build_all_requests`,
  `instances`, `apply_filters`, `process_results`, `aggregation`, `higher_is_better`,
  `doc_to_target`, `doc_to_choice`; private: `_instances` (what `apply_filters` works on);
- of an `Instance`: `request_type`, `args`, `idx`, `doc`, `doc_id`, `repeats`, `resps`,
  `filtered_resps`;
- of a group: `get_all_tasks()` and `aggregate_metric_list` (from 0.4.12) or
  `ConfigurableGroup.config` (before).
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from evomerge.errors import ConfigError, did_you_mean
from evomerge.evaluate.inference.quiet import quiet, seeded
from evomerge.evaluate.inference.reference import ReferenceLM
from evomerge.evaluate.tasks.info import TaskFacts, describe
from evomerge.models.references import is_folder

if TYPE_CHECKING:
    pass

Instance: TypeAlias = Any
Row: TypeAlias = dict[str, Any]

_FEWSHOT_SEED = 1234  # simple_evaluate's own


class Harness:
    """The tasks of a search, as lm-eval defines them.

    Args:
        tasks: names of lm-eval tasks or groups.
        include: folders with task YAML of one's own, searched before the built-in tasks.
        fewshot: number of examples in the prompt; None is what each task says (0 if nothing).
        apply_chat_template: put prompts through the tokenizer's chat template, few-shot examples
            as turns, as lm-eval's command line does.

    Raises:
        ConfigError: a folder or a task does not exist, or a task cannot be loaded.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        include: Sequence[Path] = (),
        fewshot: int | None = None,
        apply_chat_template: bool = False,
    ) -> None:
        self.apply_chat_template = apply_chat_template
        self._fewshot = fewshot
        for folder in include:
            if not is_folder(Path(folder)):
                raise ConfigError(f"evaluation.include: {str(folder)!r} is not a folder.")
        self._include = [str(folder) for folder in include]
        self._tasks: dict[str, Any] = {}
        self._groups: dict[str, Any] = {}
        self._memo: dict[tuple[str, int], tuple[Any, Any]] = {}
        with quiet(bars=True), seeded():
            self._manager = _manager(self._include, tasks, "objectives")
            for name in dict.fromkeys(tasks):
                self._open(name, name, "objectives")
            self.facts = describe(self._tasks, self._groups)

    def elsewhere(
        self, instead: Mapping[str, str], parts: Mapping[str, str], where: str
    ) -> Harness:
        """Return the same tasks and groups with other documents.

        A part is asked for as by a task of one's own that includes the task's YAML and sets
        `test_split`; few-shot examples out of the same part never are the document itself.

        Args:
            instead: task or group -> the one that stands in its place.
            parts: task or group -> `training`, `validation` or `test`: which of its documents.
            where: the section of the search file that wants it.

        Raises:
            ConfigError: there is no such task, or it has no such part.
        """
        other = copy.copy(self)
        other._tasks, other._groups = dict(self._tasks), dict(self._groups)
        with quiet(bars=True), seeded():
            if not all(name in self._manager.all_tasks for name in instead.values()):
                other._manager = _manager(self._include, list(instead.values()), f"{where}.tasks")
            for name, source in instead.items():
                other._open(name, source, f"{where}.tasks")
            other.facts = describe(other._tasks, other._groups)
            turned = {
                leaf: other._turn(leaf, part, f"{where}.task_split")
                for name, part in parts.items()
                for leaf in other.facts.leaves(name)
            }
        other.facts = replace(other.facts, tasks={**other.facts.tasks, **turned})
        return other

    def _open(self, name: str, source: str, where: str) -> None:
        """Load a task or group, to be known by a name."""
        tasks, groups = _load(self._manager, source, where)
        if source not in tasks and source not in groups:
            raise ConfigError(
                f"{where}: {source!r} stands for several tasks without an average of their own; "
                f"name them one by one: {', '.join(sorted(tasks))}."
            )
        if name != source:
            if (name in self._groups) != (source in groups):
                raise ConfigError(
                    f"{where}: {source!r} cannot stand for {name!r}: one is a group, the other a "
                    "single task; name two tasks, or two groups."
                )
            top = groups if source in groups else tasks
            top[name] = top.pop(source)
        for task in tasks.values():
            self._suit(task, where)
        self._tasks |= tasks
        self._groups |= groups

    def _turn(self, name: str, part: str, where: str) -> TaskFacts:
        """Let a task ask the documents of another of its splits; return its facts."""
        facts = self.facts.tasks[name]
        if part not in facts.parts:
            raise ConfigError(
                f"{where}: task {facts.name!r} has no {part} split; it has "
                f"{', '.join(facts.parts) or 'none that lm-eval can turn to'}. Choose another, or "
                f"name a task with such documents in `tasks` beside it."
            )
        if part == facts.part:
            return facts
        if facts.name not in self._manager.all_tasks:
            raise ConfigError(
                f"{where}: task {facts.name!r} has no YAML of its own, so its {part} split cannot "
                "be asked for; write one into a folder named in evaluation.include."
            )
        split = facts.parts[part]
        spec = {"task": facts.name, "test_split": split}
        shots = self._tasks[name].get_config("fewshot_config")
        examples = facts.parts.get("training") or facts.parts.get("validation")
        drawn = getattr(shots, "split", None) is None and getattr(shots, "samples", None) is None
        if drawn and examples == split:  # said outright, lm-eval leaves the document itself out
            spec["fewshot_split"] = split
        tasks, _ = _load(self._manager, {"group": "turned", "task": [spec]}, where)
        task = tasks[facts.name]
        self._suit(task, where)
        self._tasks[name] = task
        return replace(facts, documents=len(task.eval_docs), part=part)

    def _suit(self, task: Any, where: str) -> None:
        """Refuse a task that cannot be used; set the number of its few-shot examples."""
        _refuse_unsupported(task, where)
        if self._fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=self._fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)

    def build(self, task: str, ids: Sequence[int], reference: ReferenceLM) -> list[list[Instance]]:
        """Return the requests of each document, as `simple_evaluate(samples={task: ids})` would.

        Few-shot examples are drawn anew for each call, in the order of the ids: the prompts of a
        document depend on the set it is asked with.

        Args:
            ids: document ids, ascending and unique, at least one.
        """
        subject = self._tasks[task]
        with quiet(bars=True), seeded():
            subject.set_fewshot_seed(seed=_FEWSHOT_SEED)
            subject.build_all_requests(
                samples=dict.fromkeys(ids),  # membership is asked once per document
                system_instruction=None,
                apply_chat_template=self.apply_chat_template,
                fewshot_as_multiturn=self.apply_chat_template,
                chat_template=reference.chat_template if self.apply_chat_template else None,
                tokenizer_name=reference.tokenizer_name if self.apply_chat_template else "",
            )
        documents: list[list[Instance]] = [[] for _ in ids]
        for instance in subject.instances:
            documents[instance.doc_id].append(instance)
        for requests in documents:
            requests.sort(key=lambda instance: instance.idx)
        return documents

    def measure(self, task: str, documents: Sequence[Sequence[Instance]]) -> list[Row]:
        """Return the metrics of each document, from the answers in its requests.

        Args:
            documents: requests of each document, with `resps` set.

        Returns:
            metric key -> value as `process_results` gives it, for each document.
        """
        subject = self._tasks[task]
        subject._instances = [instance for requests in documents for instance in requests]
        for instance in subject._instances:
            instance.filtered_resps = {}
        rows: list[Row] = [{} for _ in documents]
        with quiet(), self._remembering(subject):
            subject.apply_filters()
            filters = list(subject._instances[0].filtered_resps)
            for name in filters:
                suffix = f",{name}" if len(filters) > 1 else ""
                for row, requests in zip(rows, documents, strict=True):
                    answers = [instance.filtered_resps[name] for instance in requests]
                    results = subject.process_results(requests[0].doc, answers)
                    row |= {f"{metric}{suffix}": value for metric, value in results.items()}
        return rows

    def aggregate(self, task: str, rows: Sequence[Row]) -> dict[str, float]:
        """Return metric key -> what the metric's own aggregation makes of the documents."""
        aggregation = self._tasks[task].aggregation()
        columns: dict[str, list[Any]] = {}
        for row in rows:
            for key, value in row.items():
                columns.setdefault(key, []).append(value)
        with quiet():
            return {
                key: float(aggregation.get(key.split(",")[0], _mean)(items))
                for key, items in columns.items()
            }

    def per_document(self, task: str, key: str, rows: Sequence[Row]) -> tuple[float, ...] | None:
        """Return a metric's figure for each document, None where it has none.

        The value of a perplexity is a pair (log-likelihood, length); its figure is the perplexity
        of that document alone.
        """
        if any(key not in row for row in rows):
            return None
        items = [row[key] for row in rows]
        if self.facts.tasks[task].kind == "loglikelihood_rolling":
            own = self._tasks[task].aggregation()[key.split(",")[0]]
            return tuple(float(own([item])) for item in items)
        if any(isinstance(item, (tuple, list)) for item in items):
            return None
        return tuple(map(float, items))

    def aggregate_groups(
        self, aggregates: Mapping[str, Mapping[str, float]], sizes: Mapping[str, int]
    ) -> dict[str, dict[str, float]]:
        """Return group -> metric key -> average over the group's tasks that were scored.

        Args:
            aggregates: task -> metric key -> value.
            sizes: task -> number of documents.
        """
        result: dict[str, dict[str, float]] = {}
        for name, group in self.facts.groups.items():
            for metric, by_size in group.averages.items():
                tasks = [task for task in group.tasks if metric in aggregates.get(task, {})]
                if tasks:
                    weights = [sizes[task] if by_size else 1 for task in tasks]
                    total = sum(
                        aggregates[task][metric] * weight
                        for task, weight in zip(tasks, weights, strict=True)
                    )
                    result.setdefault(name, {})[metric] = total / sum(weights)
        return result

    def field(self, task: str, name: str) -> list[str]:
        """Return a field of every document as text, to stratify by.

        Raises:
            ConfigError: the task's documents have no such field.
        """
        documents = self._tasks[task].eval_docs
        first = dict(documents[0])
        if name not in first:
            raise ConfigError(
                f"evaluation.stratify: documents of task {task!r} have no field {name!r}; they "
                f"have {', '.join(first)}.{did_you_mean(name, first)}"
            )
        return [str(document[name]) for document in documents]

    def forms(self, task: str, *, rendered: bool) -> Callable[[int], list[str]]:
        """Return what says a document in forms that can be compared with other documents'.

        Args:
            rendered: whether to give its question, choices and answer too, in which documents of
                different tasks or data sets can be compared.
        """
        subject = self._tasks[task]
        documents = subject.eval_docs  # once: lm-eval makes them anew each time

        def said(document: int) -> list[str]:
            content = documents[document]
            found = [json.dumps(dict(content), sort_keys=True, default=str)]
            if rendered:
                parts = [subject.doc_to_text(content), subject.doc_to_target(content)]
                if subject.get_config("doc_to_choice"):
                    parts.append(subject.doc_to_choice(content))
                found.append(" ".join(str(parts).casefold().split()))
            return found

        return said

    @contextlib.contextmanager
    def _remembering(self, task: Any) -> Iterator[None]:
        """Let a document's target and choices be rendered once, not once a candidate."""

        def remember(name: str) -> Callable[..., Any]:
            render = getattr(task, name)

            def recall(document: Any, *override: Any, **options: Any) -> Any:
                if override or options:
                    return render(document, *override, **options)
                key = (name, id(document))
                if key not in self._memo or self._memo[key][0] is not document:
                    self._memo[key] = (document, render(document))
                return self._memo[key][1]

            return recall

        names = [name for name in ("doc_to_target", "doc_to_choice") if hasattr(task, name)]
        for name, recall in [(name, remember(name)) for name in names]:
            setattr(task, name, recall)
        try:
            yield
        finally:
            for name in names:
                delattr(task, name)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _manager(include: list[str], tasks: Sequence[str], where: str) -> Any:
    """Return a task manager that knows the tasks; reading the built-in ones takes seconds."""
    from lm_eval.tasks import TaskManager

    if include:
        manager = TaskManager(include_path=include, include_defaults=False)
        if all(name in manager.all_tasks for name in tasks):
            return manager
    manager = TaskManager(include_path=include or None)
    for name in tasks:
        if name not in manager.all_tasks:
            raise ConfigError(
                f"{where}: there is no task {name!r} in lm-eval"
                f"{' or in ' + ', '.join(include) if include else ''}; put its YAML into a folder "
                f"named in evaluation.include.{did_you_mean(name, manager.all_tasks)}"
            )
    return manager


def _load(
    manager: Any, spec: str | dict[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tasks and the groups that a name, or a group of changed tasks, stands for."""
    name = spec if isinstance(spec, str) else spec["task"][0]["task"]
    try:
        if hasattr(manager, "load"):
            loaded = manager.load([spec])
            return dict(loaded["tasks"]), dict(loaded.get("groups", {}))
        from lm_eval.tasks import get_task_dict

        tasks: dict[str, Any] = {}
        groups: dict[str, Any] = {}
        _flatten(get_task_dict([spec], manager), tasks, groups)
        return tasks, groups
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ConfigError(
            f"{where}: task {name!r} could not be loaded: {type(error).__name__}"
            f"{': ' + reason[0] if reason else ''}. Check its YAML and that its data set can be "
            f"reached from here."
        ) from error


def _flatten(tree: Mapping[Any, Any], tasks: dict[str, Any], groups: dict[str, Any]) -> list[str]:
    """Sort the nested dictionary of lm-eval before 0.4.12 into tasks and groups."""
    names: list[str] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            below = _flatten(value, tasks, groups)
            label = getattr(key, "group_name", key)
            groups[label] = {
                "tasks": below,
                "averages": (getattr(key, "config", None) or {}).get("aggregate_metric_list"),
            }
            names += below
        else:
            tasks[key] = value
            names.append(key)
    return names


def _refuse_unsupported(task: Any, where: str) -> None:
    name = task.get_config("task")
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"{where}: task {name!r} needs images or sound; only text is scored.")
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError(
            f"{where}: task {name!r} runs code that the model writes, which a search would do "
            f"thousands of times unwatched; choose a task that only compares text."
        )
