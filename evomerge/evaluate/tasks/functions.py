"""Objectives of one's own, without lm-eval: a Python function that scores documents.

A function receives the model, the tokenizer and document ids, and returns one score a document
(metric `score`), or several as metric -> scores. It says how many documents it has in an attribute:

    def politeness(model, tokenizer, documents):
        return [judge(model, tokenizer, QUESTIONS[i]) for i in documents]

    politeness.documents = len(QUESTIONS)

It may also have `metrics = {"score": True}`: metric -> whether higher is better. A search file
names it as `module:function`; a package may register it in the entry-point group
`evomerge.objectives` and give it a plain name.

Whatever a function raises fails one candidate and nothing else. While it runs, the generators of
random numbers start from the same seeds as in lm-eval, so that it gives the same scores in a
resumed search; `os._exit` raises SystemExit instead of ending the process; torch's global settings
are put back afterwards. What it does to the model and the tokenizer is undone too (see
`Evaluator`), at the price of building them again: a function that changes weights should rather
work on `copy.deepcopy(model)`.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any, NoReturn, TypeAlias

from evomerge.errors import CandidateError, ConfigError, one_line
from evomerge.evaluate.inference.memory import is_device_failure
from evomerge.evaluate.inference.quiet import seeded
from evomerge.evaluate.tasks.info import MetricInfo, TaskInfo
from evomerge.registry import Registry

Body: TypeAlias = Callable[
    [Any, Any, Sequence[int]], Sequence[float] | Mapping[str, Sequence[float]]
]

REGISTERED: Registry[Body] = Registry("objective function", "evomerge.objectives", {})


@dataclass(frozen=True)
class Function:
    """An objective function and what it says of itself."""

    body: Body
    info: TaskInfo

    def __call__(
        self, model: Any, tokenizer: Any, documents: Sequence[int]
    ) -> dict[str, tuple[float, ...]]:
        """Return metric -> one score a document, in the order of the documents.

        Raises:
            CandidateError: the function raised anything but KeyboardInterrupt, or what it returned
                is not one finite number a document for each of its metrics.
        """
        try:
            with _contained():
                result = self.body(model, tokenizer, documents)
                return self._checked(result, len(documents))
        except (KeyboardInterrupt, CandidateError):
            raise
        except BaseException as error:  # SystemExit and the like are no reason to end a search
            if is_device_failure(error):
                raise
            kind = type(error).__name__
            raise CandidateError(
                f"Objective {self.info.name} raised {kind}: {one_line(error)}"
            ) from error

    def _checked(self, result: Any, documents: int) -> dict[str, tuple[float, ...]]:
        scores = result if isinstance(result, Mapping) else {"score": result}
        if set(scores) != set(self.info.metrics):
            raise CandidateError(
                f"Objective {self.info.name} returned the metrics "
                f"{', '.join(sorted(map(str, scores)))}; "
                f"it promises {', '.join(sorted(self.info.metrics))} in its `metrics`."
            )
        return {name: self._numbers(name, values, documents) for name, values in scores.items()}

    def _numbers(self, metric: str, values: Any, documents: int) -> tuple[float, ...]:
        """Return scores as floats, taken from a sequence, an array or a tensor of numbers."""
        if hasattr(values, "tolist"):  # of numpy and torch
            values = values.tolist()
        if not isinstance(values, Sequence) or isinstance(values, (str, bytes, bytearray)):
            raise CandidateError(
                f"Objective {self.info.name} returned a {type(values).__name__} for {metric}; it "
                "must return a list with one number a document."
            )
        if len(values) != documents:
            raise CandidateError(
                f"Objective {self.info.name} returned {len(values)} values of {metric} for "
                f"{documents} documents; it must return one a document."
            )
        numbers = [_number(value) for value in values]
        for value, number in zip(values, numbers, strict=True):
            if number is None:
                raise CandidateError(
                    f"Objective {self.info.name} returned the {metric} {value!r:.80}; every score "
                    "must be a finite number (int or float)."
                )
        return tuple(number for number in numbers if number is not None)


def _number(value: Any) -> float | None:
    """Return a score as a float, or None if it is no finite number. A bool or a text is none."""
    if hasattr(value, "item"):  # a scalar of numpy or torch
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


@contextmanager
def _contained() -> Iterator[None]:
    """Keep the process as it is while foreign code runs in it.

    A process that this code forks ends with it, however it leaves the block.
    """
    import torch

    hooks = [
        (found, dict(found))
        for name, found in vars(torch.nn.modules.module).items()
        if name.startswith("_global_") and isinstance(found, dict)
    ]
    dtype, threads, gradients = (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
    )
    process, leave = os.getpid(), os._exit

    def refuse(status: int) -> NoReturn:
        if os.getpid() != process:
            leave(status)
        raise SystemExit(f"os._exit({status})")

    os._exit = refuse
    try:
        with seeded():
            yield
    finally:
        if os.getpid() != process:
            leave(1)
        os._exit = leave
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        for found, before in hooks:
            if found != before:
                found.clear()
                found.update(before)


def is_function(name: str) -> bool:
    """Tell whether an objective's task names a function: `module:function`, or a registered one."""
    return ":" in name or name in REGISTERED.names()


def find(name: str) -> Function:
    """Return the function of that name.

    Raises:
        ConfigError: it cannot be imported, is no function, or does not say how many documents
            it has.
    """
    body = _imported(name) if ":" in name else REGISTERED.get(name)
    count = getattr(body, "documents", None)
    if not callable(body) or not isinstance(count, int) or count < 1:
        raise ConfigError(
            f"objectives: {name!r} must be a function with an attribute `documents`, the number "
            f"of documents it can score (at least 1), not {body!r} with documents = {count!r}."
        )
    metrics = getattr(body, "metrics", {"score": True})
    info = {metric: MetricInfo(bool(up), is_mean=True) for metric, up in metrics.items()}
    return Function(body, TaskInfo(name, "function", count, info))


def _imported(name: str) -> Body:
    module, _, attribute = name.partition(":")
    try:
        body: Body = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ConfigError(
            f"objectives: {name!r} could not be imported: {type(error).__name__}: {error}. Give "
            f"`module:function` of a module that Python finds (PYTHONPATH, or an installed one)."
        ) from error
    return body
