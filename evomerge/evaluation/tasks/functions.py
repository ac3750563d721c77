"""Objective functions: Python functions of a user that score documents, without lm-eval.

A function gets the model, the tokenizer and a list of document ids. It returns one score for each
document (the metric `score`), or a dictionary metric -> scores. Its attribute `documents` is the
number of documents that it has:

    def politeness(model, tokenizer, documents):
        return [judge(model, tokenizer, QUESTIONS[i]) for i in documents]

    politeness.documents = len(QUESTIONS)

If it returns several metrics, or if lower is better, it also has an attribute `metrics`: metric ->
whether higher is better. The default is `{"score": True}`. A search file names a function as
`module:function`, or by a name that a package registers in the entry-point group
`evomerge.objectives`.

An exception in a function makes one candidate fail; the search goes on. The reason names the file
and line, and the run's `log.txt` has the traceback. A function that hangs or ends its process is
what `executor: processes` with `timeout` is for. While a function runs, the global random
generators have the seeds of lm-eval, so that a resumed search gives the same scores. If a function
changes the model or the tokenizer, both are built again (see `Evaluator`). This takes time, so a
function that changes weights should do it on a copy (`copy.deepcopy(model)`). Nothing else that it
changes in its process is put back.
"""

from __future__ import annotations

import math
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Real
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

from evomerge.errors import CandidateError, ConfigError, one_line, printable
from evomerge.evaluation.inference.memory import is_device_failure
from evomerge.evaluation.inference.quiet import seeded
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo
from evomerge.registry import Registry
from evomerge.trust.files import NotAllowedError
from evomerge.trust.modules import import_allowed

Body: TypeAlias = Callable[
    [Any, Any, Sequence[int]], Sequence[float] | Mapping[str, Sequence[float]]
]

_MOST_DOCUMENTS = 10_000_000  # of one function
_MOST_LINES = 200  # of a traceback; the last ones are kept

REGISTERED: Registry[Body] = Registry("objective function", "evomerge.objectives", {})


@dataclass(frozen=True)
class Function:
    """An objective function, and its documents and metrics.

    Attributes:
        body: the Python function.
        info: number of documents and metrics, from the attributes of the Python function.
    """

    body: Body
    info: TaskInfo

    def __call__(
        self, model: Any, tokenizer: Any, documents: Sequence[int]
    ) -> dict[str, tuple[float, ...]]:
        """Return the scores of documents: metric -> one score for each document, in their order.

        Raises:
            CandidateError: the function raised an exception (other than KeyboardInterrupt), or did
                not return one finite number for each document and metric.
        """
        try:
            with seeded():
                result = self.body(model, tokenizer, documents)
                return self._checked(result, len(documents))
        except (KeyboardInterrupt, CandidateError):
            raise
        except BaseException as error:  # SystemExit must not end the search either
            if is_device_failure(error):
                raise
            place, kind = raised_at(error, self.body), type(error).__name__
            where = f" ({place})" if place else ""
            raise CandidateError(
                f"Objective {self.info.name}{where} raised {kind}: {one_line(error)}"
            ) from error

    def _checked(self, result: Any, documents: int) -> dict[str, tuple[float, ...]]:
        scores = result if isinstance(result, Mapping) else {"score": result}
        if set(scores) != set(self.info.metrics):
            raise CandidateError(
                f"Objective {self.info.name} returned the metrics "
                f"{', '.join(sorted(map(str, scores)))}; "
                f"it must return those of its attribute `metrics`: "
                f"{', '.join(sorted(self.info.metrics))}."
            )
        return {name: self._numbers(name, values, documents) for name, values in scores.items()}

    def _numbers(self, metric: str, values: Any, documents: int) -> tuple[float, ...]:
        """Return scores as floats, taken from a sequence, an array or a tensor of numbers."""
        if hasattr(values, "tolist"):  # of numpy and torch
            values = values.tolist()
        if not isinstance(values, Sequence) or isinstance(values, (str, bytes, bytearray)):
            raise CandidateError(
                f"Objective {self.info.name} returned a {type(values).__name__} for {metric}; it "
                "must return a list with one number for each document."
            )
        if len(values) != documents:
            raise CandidateError(
                f"Objective {self.info.name} returned {len(values)} values of {metric} for "
                f"{documents} documents; it must return one for each document."
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
    """Return a score as a float, or None if it is not a finite number (a bool or text is not)."""
    if hasattr(value, "item"):  # a scalar of numpy or torch
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def is_function(name: str) -> bool:
    """Return whether an objective's task is a function: `module:function`, or a registered name."""
    return ":" in name or name in REGISTERED.names()


def find(name: str) -> Function:
    """Return the objective function with this name.

    Raises:
        ConfigError: it cannot be imported, is not a function, or has no attribute `documents`.
    """
    body = _imported(name) if ":" in name else REGISTERED.get(name)
    try:
        count: Any = getattr(body, "documents", None)
        metrics: Any = getattr(body, "metrics", {"score": True})
    except Exception as error:
        raise ConfigError(
            f"objectives: {name!r}: its attributes `documents` and `metrics` cannot be read "
            f"({type(error).__name__}: {one_line(error)})."
        ) from error
    is_count = isinstance(count, int) and not isinstance(count, bool)
    if not callable(body) or not is_count or not 1 <= count <= _MOST_DOCUMENTS:
        raise ConfigError(
            f"objectives: {name!r} must be a function with an attribute `documents`, the number "
            f"of documents it can score (1 to {_MOST_DOCUMENTS:,}), not {body!r:.80} with "
            f"documents = {count!r:.80}."
        )
    if not isinstance(metrics, Mapping) or not metrics or not all(map(_is_metric, metrics.items())):
        raise ConfigError(
            f"objectives: {name!r} has the attribute metrics = {metrics!r:.80}; it must map each "
            "metric's name to whether a higher value is better, for example "
            '{"score": True}.'
        )
    info = {metric: MetricInfo(up, is_mean=True) for metric, up in metrics.items()}
    return Function(body, TaskInfo(name, "function", count, info))


def _is_metric(item: tuple[Any, Any]) -> bool:
    name, higher_is_better = item
    return isinstance(name, str) and name != "" and isinstance(higher_is_better, bool)


def _imported(name: str) -> Body:
    module, _, attribute = name.partition(":")
    try:
        body: Body = getattr(import_allowed(module), attribute)
    except KeyboardInterrupt:
        raise
    except NotAllowedError as error:
        raise ConfigError(
            f"objectives: the code of {name!r} was not allowed ({error}); read it, then allow it "
            "with --trust-code."
        ) from None
    except BaseException as error:  # SystemExit would end evomerge without a word
        raise ConfigError(
            f"objectives: {name!r} could not be imported: {type(error).__name__}: "
            f"{one_line(error).rstrip('.')}; give `module:function` of a module that Python finds "
            "(PYTHONPATH, or an installed one)."
        ) from error
    return body


def raised_at(error: BaseException, function: Callable[..., Any]) -> str:
    """Return the file and line of the user's code that an exception came out of.

    It is the innermost line that is not in a library, or the innermost one if all are.

    Args:
        error: an exception that was raised and caught.
        function: the user's function; its file is the user's code, wherever it is installed.

    Returns:
        a text such as `judges.py, line 12`; empty if there is no line.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    own = getattr(getattr(function, "__code__", None), "co_filename", None)
    users = [item for item in frames if _is_users(item[0], own)] or frames
    if not users:
        return ""
    frame, line = users[-1]
    return f"{Path(frame.f_code.co_filename).name}, line {line}"


def _is_users(frame: FrameType, own: str | None) -> bool:
    file = frame.f_code.co_filename
    if file == own:
        return True
    return not file.startswith("<") and not any(file.startswith(top) for top in _libraries())


@cache
def _libraries() -> tuple[str, ...]:
    """Return the folders of Python's library, of installed packages, and of this one."""
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return (*places, str(Path(__file__).resolve().parents[2]))


def traceback_lines(error: BaseException) -> str:
    """Return the traceback of an exception, and of those that it came from, for a log.

    Whatever its message holds, the text can be written to a file, and it is not long.
    """
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(map(printable, lines[-_MOST_LINES:]))
