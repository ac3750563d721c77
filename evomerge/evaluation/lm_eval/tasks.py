"""lm-eval's tasks: their requests, metrics and documents, and what tells these apart."""

import copy
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Self

from evomerge.compat.lm_eval import Group, filters_of, only_documents
from evomerge.errors import ConfigError
from evomerge.evaluation.inference.reference import ReferenceLM
from evomerge.evaluation.inference.rows import spread
from evomerge.evaluation.lm_eval.code import CodeProcess, Origin
from evomerge.evaluation.lm_eval.loading import TaskLoader, shows_images
from evomerge.evaluation.lm_eval.metrics import Instance, describe, document_metrics, summarized
from evomerge.evaluation.tasks.info import TaskInfo
from evomerge.evaluation.tasks.objective import DocumentMetrics, Summary
from evomerge.scores import NLL, TOKENS
from evomerge.trust.calls import SEED, calling
from evomerge.trust.code import NOTHING, Permissions

RENDERED = 200  # documents of a split whose prompts are built; of the others, the fields count

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SETTINGS = (
    *("output_type", "generation_kwargs", "num_fewshot", "repeats", "description"),
    *("target_delimiter", "fewshot_delimiter", "filter_list", "metric_list", "process_results"),
    *("doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix", "use_prompt"),
    "fewshot_config",
)


class Harness:
    """The lm-eval tasks of a search.

    Args:
        tasks: names of lm-eval tasks or groups.
        include: folders with task YAML of the user; these tasks take precedence over built-in ones.
        fewshot: number of few-shot examples; None is the number that each task sets, or 0.
        apply_chat_template: apply the tokenizer's chat template to prompts, with few-shot examples
            as turns, as lm-eval's command line does.
        generation: changes to the `generation_kwargs` of all tasks that generate texts.
        allowed: what the user allows: tasks that run text as code (`code.py`), and changes of what
            installed functions read.

    Attributes:
        tasks: lm-eval's task objects by the objectives' names, which may differ from lm-eval's.
        origins: of the tasks that may run text as code.

    Raises:
        ConfigError: a folder or a task does not exist, or a task cannot be loaded.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        include: Sequence[Path] = (),
        *,
        fewshot: int | None = None,
        apply_chat_template: bool = False,
        generation: Mapping[str, Any] | None = None,
        allowed: Permissions = NOTHING,
    ) -> None:
        self.apply_chat_template = apply_chat_template
        self.tasks: dict[str, Any] = {}
        self._groups: dict[str, Group] = {}
        self._filters: dict[str, list[Any]] = {}
        folders = [str(folder) for folder in include]
        self._code = CodeProcess(folders)
        self._loader = TaskLoader(folders, fewshot, generation or {}, allowed, tasks)
        self.origins: dict[str, Origin] = {}
        with calling(SEED):
            self._loader.manager(tasks, "objectives")
            for name in dict.fromkeys(tasks):
                self._load(name, name, "objectives")
            self.info = describe(self.tasks, self._groups, self._tried)

    def with_documents_from(
        self, replacements: Mapping[str, str], task_splits: Mapping[str, str], where: str
    ) -> Self:
        """Return a harness with the same task names but other documents.

        `replacements` says which task or group supplies the documents instead of one of these, and
        `task_splits` which split of a task they come from: `training`, `validation` or `test`;
        `where` is the section of the search file with these settings.

        Raises:
            ConfigError: there is no such task, or it has no such split.
        """
        other = copy.copy(self)
        other.tasks, other._groups = dict(self.tasks), dict(self._groups)
        other.origins, other._filters = dict(self.origins), dict(self._filters)
        with calling(SEED):
            self._loader.manager([*replacements.values()], f"{where}.tasks")
            for name, source in replacements.items():
                other._load(name, source, f"{where}.tasks")
            other.info = describe(other.tasks, other._groups, other._tried)
            changed = {
                leaf: other._select_split(leaf, task_split, f"{where}.task_split")
                for name, task_split in task_splits.items()
                for leaf in other.info.leaves(name)
            }
        other.info = replace(other.info, tasks={**other.info.tasks, **changed})
        return other

    def _load(self, name: str, source: str, where: str) -> None:
        """Load the task or group `source` and store it under `name`."""
        tasks, groups, evaluating = self._loader.load(source, where)
        origins = {leaf: (source, leaf) for leaf in evaluating & tasks.keys()}
        if name != source:
            top = groups if source in groups else tasks
            if (name in self._groups) != (top is groups):
                raise ConfigError(
                    f"{where}: {source!r} cannot replace {name!r}, since one is a group and the "
                    "other a single task; replace a task by a task, and a group by a group."
                )
            top[name] = top.pop(source)
            origins |= {name: origins.pop(source)} if source in origins else {}
        self.origins = {leaf: own for leaf, own in self.origins.items() if leaf not in tasks}
        self.origins |= origins
        self.tasks |= tasks
        self._filters |= {leaf: filters_of(task) for leaf, task in tasks.items()}
        self._groups |= groups

    def _tried(self, task: str, requests: Sequence[Instance]) -> DocumentMetrics:
        """Return the metrics of a document; none if code that it runs gives no result."""
        if task in self.origins:
            return self._code.metrics(self.origins[task], [requests], {})[0]
        return document_metrics(self.tasks[task], self._filters[task], [requests])[0]

    def _select_split(self, name: str, task_split: str, where: str) -> TaskInfo:
        """Replace a task by one that includes it and sets `test_split`; return its info."""
        info = self.info.tasks[name]
        if task_split not in info.task_splits:
            raise ConfigError(
                f"{where}: task {info.name!r} has no {task_split} split; it has "
                f"{', '.join(info.task_splits) or 'no split that lm-eval can select'}; choose "
                f"another split, or set `tasks` in this section to a task with such documents."
            )
        if task_split == info.task_split:
            return info
        changes = {"test_split": info.task_splits[task_split]}
        shots = self.tasks[name].get_config("fewshot_config")
        examples = info.task_splits.get("training") or info.task_splits.get("validation")
        is_default = all(getattr(shots, key, None) is None for key in ("split", "samples"))
        if is_default and examples == changes["test_split"]:
            # Only if `fewshot_split` is set does lm-eval leave out the document itself.
            changes["fewshot_split"] = changes["test_split"]
        task = self.tasks[name] = self._loader.load(info.name, where, changes)[0][info.name]
        self._filters[name] = filters_of(task)
        return replace(info, documents=len(task.eval_docs), task_split=task_split)

    def build(
        self, task: str, ids: Sequence[int], reference: ReferenceLM | None
    ) -> list[list[Instance]]:
        """Return the requests of each document: those of `simple_evaluate(samples={task: ids})`.

        The ids are ascending and unique. Few-shot examples are drawn in their order, starting from
        the same seed in each call, so a document's prompt depends on the other ids too. Without a
        reference there is no chat template.

        Raises:
            ConfigError: lm-eval makes no requests of a document.
        """
        subject = self.tasks[task]
        chat = reference if self.apply_chat_template else None
        with calling(SEED), only_documents(subject, ids):
            subject.set_fewshot_seed(seed=SEED)
            subject.build_all_requests(
                samples=dict.fromkeys(ids),  # lm-eval tests `in samples` for every document
                system_instruction=None,
                apply_chat_template=chat is not None,
                fewshot_as_multiturn=chat is not None,
                chat_template=chat and chat.chat_template,
                tokenizer_name=chat.tokenizer_name if chat else "",
            )
        groups = groupby(subject.instances, key=lambda instance: instance.doc_id)
        documents = [sorted(requests, key=lambda instance: instance.idx) for _, requests in groups]
        if skipped := len(ids) - len(documents):
            raise ConfigError(
                f"objectives: {skipped} of {len(ids)} documents of task {task!r} have no "
                "choices or no target; leave them out with process_docs in the task's YAML."
            )
        return documents

    def measure(self, task: str, documents: Sequence[Sequence[Instance]]) -> list[DocumentMetrics]:
        """Return the metrics of each document, from the answers (`resps`) in its requests."""
        if task in self.origins:
            metrics = self.info.tasks[task].metrics.items()
            worst = {
                key: 1.0 - metric.higher_is_better if metric.is_mean else None
                for key, metric in metrics
                if key not in (NLL, TOKENS)
            }
            return self._code.metrics(self.origins[task], documents, worst)
        return document_metrics(self.tasks[task], self._filters[task], documents)

    def summary(self, task: str, rows: Sequence[DocumentMetrics]) -> Summary:
        """Return the numbers of documents, and lm-eval's own aggregates of all.

        Raises:
            CandidateError: code of the task gives no result.
        """
        kind = self.info.tasks[task].kind
        if task in self.origins:
            return self._code.summary(self.origins[task], kind, rows)
        return summarized(self.tasks[task], kind, rows)

    def digest(self, task: str, ids: Sequence[int]) -> str:
        """Return the digest of some documents of a task, 16 hexadecimal digits.

        It is that of all fields of the documents, of prompts, choices and targets as they are
        rendered, and of the settings by which prompts are made, texts generated and answers scored.
        Chat templates belong to the tokenizer, so prompts count without them.
        """
        subject, requests = self.tasks[task], self.build(task, spread(ids, RENDERED), None)
        documents = subject.eval_docs  # kept, since lm-eval creates them again at each access
        total = hashlib.sha256()
        with calling():
            for part in chain(
                (dict(documents[document]) for document in ids),
                ([subject.doc_to_target(of[0].doc), *(it.args for it in of)] for of in requests),
                ((name, subject.get_config(name)) for name in _SETTINGS),
            ):
                total.update(json.dumps(part, sort_keys=True, default=_plain).encode() + b"\n")
        return total.hexdigest()[:16]

    def forms(self, task: str, *, rendered: bool) -> Callable[[int], Sequence[str]]:
        """Return a function: document id -> texts by which the document is compared with others.

        The first text has the raw fields of the document; `rendered` adds one of question, choices
        and answer, which can be compared with documents of other data sets.
        """
        subject = self.tasks[task]
        documents = subject.eval_docs  # kept, since lm-eval creates them again at each access

        def texts(document: int) -> list[str]:
            content = documents[document]
            forms = [json.dumps(dict(content), sort_keys=True, default=_plain)]
            if rendered:
                with calling():
                    parts = [subject.doc_to_text(content), subject.doc_to_target(content)]
                    if subject.get_config("doc_to_choice"):
                        parts.append(subject.doc_to_choice(content))
                    if shows_images(subject):
                        parts += map(_plain, subject.doc_to_image(content))
                forms.append(" ".join(str(parts).casefold().split()))
            return forms

        return texts

    def reference_answer(self, task: str, document: Any) -> tuple[str, str]:
        """Return the reference answer of a document, and the task's delimiter before it.

        Raises:
            ConfigError: the document has none.
        """
        subject = self.tasks[task]
        with calling():
            target = subject.doc_to_target(document)
            if isinstance(target, int) and subject.get_config("doc_to_choice"):
                target = subject.doc_to_choice(document)[target]
        target = target[0] if isinstance(target, (list, tuple)) and target else target
        if target is None or not str(target).strip():
            raise _without(task, "has no reference answer")
        delimiter = subject.get_config("target_delimiter")
        return str(target), " " if delimiter is None else str(delimiter)

    def right_choices(self, task: str, document: Any) -> tuple[int, ...]:
        """Return the places of the right choices of a document: one, or those that are accepted.

        Raises:
            ConfigError: the document has none.
        """
        subject = self.tasks[task]
        with calling():
            # Where the choices are in the prompt, this is what says which one is right.
            is_in_prompt = getattr(subject, "multiple_input", False)
            target = (subject.doc_to_text if is_in_prompt else subject.doc_to_target)(document)
            choices = list(subject.doc_to_choice(document))
        targets = target if isinstance(target, (list, tuple)) else [target]
        indices = [
            choices.index(it) if isinstance(it, str) and it in choices else it for it in targets
        ]
        right = {item for item in indices if isinstance(item, int) and 0 <= item < len(choices)}
        if not right:
            raise _without(task, "does not say which choice is right")
        return tuple(sorted(right))

    def choice_lengths(self, task: str, document: Any, metric: str) -> tuple[float, ...]:
        """Return by what a metric divides the log-likelihood of each choice of a document."""
        with calling():
            choices = self.tasks[task].doc_to_choice(document)
        if metric not in ("acc_norm", "acc_bytes"):
            return (1.0,) * len(choices)
        texts = [item.encode() if metric == "acc_bytes" else item for item in choices]
        return tuple(float(max(1, len(text))) for text in texts)


def _without(task: str, what: str) -> ConfigError:
    """Return the error for a document that has no answer to compare a model's with."""
    return ConfigError(
        f"objectives: a document of task {task!r} {what} (`doc_to_target`), so it has neither a "
        "loss for gradients nor the metric nll; correct it in the task's YAML or leave it out "
        "there (process_docs), or use another optimizer and metric."
    )


def _plain(value: Any) -> Any:
    """Return what stands for a value that JSON has no form for, the same in every process.

    For a function that is its source, since functions of a task are files of a person.
    """
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if hasattr(value, "getbands"):  # an image of Pillow
        return f"{value.size} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if is_dataclass(value) and not isinstance(value, type):  # of lm-eval: settings
        return vars(value)
    if not callable(value):
        text = str(value)
        return type(value).__qualname__ if _ADDRESS.search(text) else text
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):  # it has no file, or is an object that can be called
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
