"""Tasks that run code which the model writes (`unsafe_code: true` in their YAML).

Their own functions (filters, metrics, `process_results`, aggregations) are called in a sandbox, for
several documents at a time. A document on which they give no result counts as answered wrongly.

What this file uses of lm-eval: of a task made of YAML, private: `_metric_fn_list`,
`_aggregation_list`, `_filters`, and of the filters in these `functools.partial` and `filter_fn`.
Since 0.5 these are elsewhere, so such tasks are refused there.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from types import FunctionType, MethodWrapperType
from typing import TYPE_CHECKING, Any

from evomerge.errors import ConfigError, SearchError, one_line
from evomerge.evaluation.tasks.info import TaskInfo
from evomerge.evaluation.tasks.scoring import DocumentMetrics
from evomerge.scores import TOKENS

if TYPE_CHECKING:
    from evomerge.evaluation.sandbox.sandbox import Function, Sandbox

_SECONDS, _SECONDS_MORE = 30, 2  # of a call, and of each answer in it

log = logging.getLogger(__name__)


def runs_code(task: Any) -> bool:
    """Return whether a task says that it runs code which the model writes."""
    return bool(getattr(task, "UNSAFE_CODE", False) or task.get_config("unsafe_code"))


def confine(task: Any, sandbox: Sandbox, where: str) -> None:
    """Let all functions of a task's own that receive answers be called in the sandbox.

    Args:
        task: an lm-eval task, which is changed.
        sandbox: where the functions are called.
        where: the key of the search file that names the task.

    Raises:
        ConfigError: a function cannot be called there.
    """
    name = str(task.get_config("task"))
    made_of_yaml = type(task).__module__.startswith("lm_eval.api.") and hasattr(task, "_filters")
    if not made_of_yaml or hasattr(task, "scorers"):
        raise ConfigError(
            f"{where}: task {name!r} is a Python class, so the code that the model writes cannot "
            "run in a process with limits; write the task as YAML with functions."
        )

    def confined(function: Any, kind: type[_Confined], what: str) -> Any:
        if function is None or _is_of_lm_eval(function):
            return function
        return kind(
            _importable(function, sandbox, f"{where}: {what} of task {name!r}"), sandbox, name
        )

    if callable(own := task.get_config("process_results")):
        task.set_config(key="process_results", value=confined(own, _Confined, "process_results"))
    for metric, function in task._metric_fn_list.items():
        task._metric_fn_list[metric] = confined(function, _Confined, f"metric {metric!r}")
    for metric, function in task._aggregation_list.items():
        task._aggregation_list[metric] = confined(function, _Aggregation, f"aggregation {metric!r}")
    for ensemble in task._filters:
        what = f"filter {ensemble.name!r}"
        for place, made in enumerate(ensemble.filters):
            if not isinstance(made, partial) or not _is_of_lm_eval(made.func):
                raise ConfigError(
                    f"{where}: {what} of task {name!r} is a Python class, so it cannot be called "
                    "in a process with limits; write it as a function for the filter `custom`."
                )
            options = dict(made.keywords)
            if "filter_fn" in options:
                options["filter_fn"] = confined(options["filter_fn"], _Filter, what)
                ensemble.filters[place] = partial(made.func, **options)


def confined_metrics(
    task: Any, answers: Sequence[tuple[Any, Any]], info: TaskInfo, width: int
) -> list[DocumentMetrics]:
    """Return the metrics of documents, several at a time.

    Args:
        task: a task that was given to `confine`.
        answers: of each document, the document and its filtered answers.
        info: the properties of the task.
        width: number of documents at a time.
    """
    from evomerge.evaluation.sandbox.sandbox import CallError

    worst = {
        key.split(",")[0]: 0.0 if metric.higher_is_better else 1.0
        for key, metric in info.metrics.items()
        if key != TOKENS
    }

    def metrics(answer: tuple[Any, Any]) -> DocumentMetrics:
        try:
            return dict(task.process_results(*answer))
        except CallError as error:
            _warn(info.name, str(error).split(":")[0], str(error))
            return dict(worst)

    with ThreadPoolExecutor(width) as pool:
        return list(pool.map(metrics, answers))


class _Confined:
    """A function of a task that is called in the sandbox."""

    def __init__(self, function: Function, sandbox: Sandbox, task: str) -> None:
        self.function, self.sandbox, self.task = function, sandbox, task

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Return the function's result.

        Raises:
            CallError: it gave none.
            SearchError: it cannot be imported any more.
        """
        from evomerge.evaluation.sandbox.sandbox import MissingFunctionError

        texts = sum(map(_count_texts, (*arguments, *options.values())))
        seconds = _SECONDS + _SECONDS_MORE * texts
        try:
            return self.sandbox.call(self.function, *arguments, seconds=seconds, **options)
        except MissingFunctionError as error:
            raise SearchError(
                f"The functions of task {self.task!r} can no longer be called in a process with "
                f"limits ({one_line(error)}); restore {self.function.file}, then resume."
            ) from error


class _Aggregation(_Confined):
    """An aggregation over documents; 0 if it gives no result."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from evomerge.evaluation.sandbox.sandbox import CallError

        try:
            return super().__call__(*arguments, **options)
        except CallError as error:
            _warn(self.task, self.function.name, str(error))
            return 0.0


class _Filter(_Confined):
    """A filter of all documents; the answers on which it gives no result become empty."""

    def __call__(self, answers: Any, documents: Any, /) -> Any:
        from evomerge.evaluation.sandbox.sandbox import CallError

        rows = [list(of_document) for of_document in answers]
        try:
            return super().__call__(rows, list(documents))
        except CallError:  # one of them is to blame, not all
            return [self._one(*pair) for pair in zip(rows, documents, strict=True)]

    def _one(self, answers: list[Any], document: Any) -> Any:
        from evomerge.evaluation.sandbox.sandbox import CallError

        try:
            return super().__call__([answers], [document])[0]
        except CallError as error:
            _warn(self.task, self.function.name, str(error))
            return [""] * len(answers)


@lru_cache(maxsize=100)
def _warned(task: str, kind: str) -> list[str]:
    return []


def _warn(task: str, kind: str, reason: str) -> None:
    """Log a reason why an answer counts as wrong; of each kind and task only the first one."""
    if not (said := _warned(task, kind)):
        said.append(reason)
        log.warning("Task %s: an answer counts as wrong, since %s", task, one_line(reason))


def _is_of_lm_eval(function: Any) -> bool:
    """Return whether a function or class is lm-eval's own, such as a registered metric."""
    module = str(getattr(_plain(function), "__module__", ""))
    return module.startswith("lm_eval.") and not module.startswith("lm_eval.tasks.")


def _plain(function: Any) -> Any:
    """Return the function itself, of which lm-eval may hold the method `__call__`."""
    return function.__self__ if isinstance(function, MethodWrapperType) else function


def _importable(function: Any, sandbox: Sandbox, what: str) -> Function:
    """Return how another process can import a function.

    Raises:
        ConfigError: it cannot.
    """
    from evomerge.evaluation.sandbox.sandbox import Function, MissingFunctionError

    plain = inspect.unwrap(_plain(function))
    file = plain.__globals__.get("__file__") if isinstance(plain, FunctionType) else None
    if file is None or "<" in plain.__qualname__:
        raise ConfigError(
            f"{what} is not a function that has a name in a file, so it cannot be called in a "
            "process with limits; define it by `def` in a file beside the task's YAML."
        )
    found = Function(plain.__module__, str(file), plain.__qualname__)
    try:
        sandbox.check(found)
    except MissingFunctionError as error:
        raise ConfigError(
            f"{what} cannot be imported in a process with limits, where environment variables are "
            f"not set: {one_line(error)}; correct {file}."
        ) from error
    return found


def _count_texts(value: Any) -> int:
    if isinstance(value, (list, tuple)):
        return sum(map(_count_texts, value))
    return int(isinstance(value, str))
