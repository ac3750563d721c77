"""Objectives of one's own, without lm-eval: a Python function that scores documents.

A function receives the model, the tokenizer and document ids, and returns one score a document
(metric `score`), or several as metric -> scores. It says how many documents it has in an attribute:

    def politeness(model, tokenizer, documents):
        return [judge(model, tokenizer, QUESTIONS[i]) for i in documents]

    politeness.documents = len(QUESTIONS)

It may also have `metrics = {"score": True}`: metric -> whether higher is better. A search file
names it as `module:function`; a package may register it in the entry-point group
`evomerge.objectives` and give it a plain name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, TypeAlias

from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluate.tasks.info import MetricFacts, TaskFacts

GROUP = "evomerge.objectives"

Body: TypeAlias = Callable[
    [Any, Any, Sequence[int]], Sequence[float] | Mapping[str, Sequence[float]]
]


@dataclass(frozen=True)
class Function:
    """An objective function and what it says of itself."""

    body: Body
    facts: TaskFacts

    def __call__(
        self, model: Any, tokenizer: Any, documents: Sequence[int]
    ) -> dict[str, tuple[float, ...]]:
        """Return metric -> one score a document, in the order of the documents.

        Raises:
            CandidateError: the function gave another number of scores, or other metrics.
        """
        result = self.body(model, tokenizer, documents)
        scores = result if isinstance(result, Mapping) else {"score": result}
        if set(scores) != set(self.facts.metrics):
            raise CandidateError(
                f"Objective {self.facts.name} returned the metrics {', '.join(sorted(scores))}; "
                f"it promises {', '.join(sorted(self.facts.metrics))} in its `metrics`."
            )
        for metric, values in scores.items():
            if len(values) != len(documents):
                raise CandidateError(
                    f"Objective {self.facts.name} returned {len(values)} values of {metric} for "
                    f"{len(documents)} documents; it must return one a document."
                )
        return {metric: tuple(map(float, values)) for metric, values in scores.items()}


def is_function(name: str) -> bool:
    """Tell whether an objective's task names a function: `module:function`, or a registered one."""
    return ":" in name or name in entry_points(group=GROUP).names


def find(name: str) -> Function:
    """Return the function of that name.

    Raises:
        ConfigError: it cannot be imported, is no function, or does not say how many documents
            it has.
    """
    try:
        if ":" in name:
            module, _, attribute = name.partition(":")
            body = getattr(importlib.import_module(module), attribute)
        else:
            body = entry_points(group=GROUP)[name].load()
    except Exception as error:
        raise ConfigError(
            f"objectives: {name!r} could not be imported: {type(error).__name__}: {error}. Give "
            f"`module:function` of a module that Python finds (PYTHONPATH, or an installed one)."
        ) from error
    count = getattr(body, "documents", None)
    if not callable(body) or not isinstance(count, int) or count < 1:
        raise ConfigError(
            f"objectives: {name!r} must be a function with an attribute `documents`, the number "
            f"of documents it can score (at least 1), not {body!r} with documents = {count!r}."
        )
    metrics = getattr(body, "metrics", {"score": True})
    facts = {metric: MetricFacts(bool(up), is_mean=True) for metric, up in metrics.items()}
    return Function(body, TaskFacts(name, "function", count, facts))
