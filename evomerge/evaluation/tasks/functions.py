"""Objective functions: Python functions of a user that score documents, without lm-eval.

A function gets the model, the tokenizer and a list of document ids. It returns one score for each
document (the metric `score`), or a dictionary metric -> scores. Its attribute `documents` is the
number of documents that it has:

    def politeness(model, tokenizer, documents):
        return [judge(model, tokenizer, QUESTIONS[i]) for i in documents]

    politeness.documents = len(QUESTIONS)

If it returns several metrics, or if lower is better, it also has an attribute `metrics`: metric ->
whether higher is better. A search file names a function as `module:function`, or by a name that a
package registers in the entry-point group `evomerge.objectives`.

While a function runs, the global random generators have the seeds of lm-eval, so that a resumed
search gives the same scores. After a call all weights are written again (see `Evaluator`).
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from evomerge.errors import CandidateError, ConfigError, InputError, one_line, printable
from evomerge.evaluation.inference.calls import seeded
from evomerge.evaluation.inference.device import is_device_failure
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo
from evomerge.registry import Registry
from evomerge.trust.modules import is_installed

Body: TypeAlias = Callable[
    [Any, Any, Sequence[int]], Sequence[float] | Mapping[str, Sequence[float]]
]

Scored: TypeAlias = dict[str, tuple[float, ...]]
_MOST_LINES = 200  # of a traceback; the last ones are kept

REGISTERED: Registry[Body] = Registry("objective function", "evomerge.objectives", {})


@dataclass(frozen=True)
class ObjectiveFunction:
    """A Python function of a user, with the documents and metrics that its attributes name."""

    body: Body
    info: TaskInfo
    digests: ClassVar[dict[str, str]] = {}

    def __call__(self, model: Any, tokenizer: Any, documents: Sequence[int]) -> Scored:
        """Return metric -> one score for each document, in their order.

        Raises:
            CandidateError: the function raised an exception (other than KeyboardInterrupt), or did
                not return one finite number for each document and metric.
        """
        try:
            with seeded():
                result = self.body(model, tokenizer, documents)
                scores = result if isinstance(result, Mapping) else {"score": result}
                if set(scores) != set(self.info.metrics):
                    raise CandidateError(
                        f"Objective {self.info.name} returned metrics {sorted(map(str, scores))}; "
                        f"it must return those of its `metrics`: {sorted(self.info.metrics)}."
                    )
                count = len(documents)
                return {name: self._numbers(name, item, count) for name, item in scores.items()}
        except (KeyboardInterrupt, CandidateError):
            raise
        except BaseException as error:  # SystemExit must not end the search either
            if is_device_failure(error):
                raise
            raise CandidateError(
                f"Objective {self.info.name}{_raised_at(error)} raised "
                f"{type(error).__name__}: {one_line(error)}"
            ) from error

    def forms(self, document: int) -> tuple[str, ...]:
        """Return the texts by which a document is compared with others: none is known."""
        return ()

    def aggregate(self, metric: str, values: Sequence[float]) -> float:
        """Return the score from the values of a metric: their mean."""
        return sum(values) / len(values)

    def _numbers(self, metric: str, values: Any, count: int) -> tuple[float, ...]:
        """Return scores as floats, taken from a sequence, an array or a tensor of numbers."""
        if hasattr(values, "tolist"):  # of numpy and torch
            values = values.tolist()
        if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
            wrong = [f"a {type(values).__name__}"]
        else:
            wrong = [f"{item!r:.80}" for item in values if not _is_score(item)]
            wrong += [] if len(values) == count else [f"{len(values)} values"]
        if wrong:
            raise CandidateError(
                f"Objective {self.info.name} returned {wrong[0]} of {metric} for "
                f"{count} documents; it must return a list with one finite number (int or float) "
                "for each document."
            )
        return tuple(map(float, values))


def _is_score(value: Any) -> bool:
    if hasattr(value, "item"):  # a scalar of numpy or torch
        value = value.item()
    try:
        return type(value) is not bool and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:
        return False


def is_function(name: str) -> bool:
    """Return whether an objective's task is a function: `module:function`, or a registered name."""
    return ":" in name or name in REGISTERED.names()


def find(name: str) -> ObjectiveFunction:
    """Return the objective function with this name.

    Raises:
        ConfigError: it cannot be imported, is not a function, or has wrong attributes.
    """
    module, _, attribute = name.partition(":")
    try:
        body: Any = getattr(import_module(module), attribute) if attribute else REGISTERED.get(name)
    except (KeyboardInterrupt, InputError):
        raise
    except BaseException as error:  # SystemExit would end evomerge without a word
        raise ConfigError(
            f"objectives: {name!r} could not be imported: {type(error).__name__}: "
            f"{one_line(error).rstrip('.')}; give `module:function` of a module on PYTHONPATH."
        ) from error
    count: Any = getattr(body, "documents", None)
    metrics: Any = getattr(body, "metrics", {"score": True})
    pairs = metrics.items() if isinstance(metrics, Mapping) else ()
    has_metrics = pairs and all((type(name), type(up)) == (str, bool) for name, up in pairs)
    if not (callable(body) and type(count) is int and count > 0 and has_metrics):
        raise ConfigError(
            f"objectives: {name!r} is {body!r:.80} with documents = {count!r:.80} and metrics = "
            f"{metrics!r:.80}; it must be a function, `documents` the number that it can score, "
            'and `metrics`, if wanted, say whether a higher value is better, as {"score": True}.'
        )
    info = {metric: MetricInfo(up, is_mean=True) for metric, up in metrics.items()}
    return ObjectiveFunction(body, TaskInfo(name, "function", count, info))


def _raised_at(error: BaseException) -> str:
    """Return in brackets the innermost line that is not in a library: ` (judges.py, line 12)`."""
    places = traceback.extract_tb(error.__traceback__)
    users = [f for f in places if f.filename[0] != "<" and not is_installed(Path(f.filename))]
    place = (users or places)[-1]
    return f" ({Path(place.filename).name}, line {place.lineno})"


def traceback_lines(error: BaseException) -> str:
    """Return the last lines of the traceback of an exception, for the log of a run."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(map(printable, lines[-_MOST_LINES:]))
