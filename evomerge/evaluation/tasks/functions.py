"""Objective functions: Python functions of a user that score documents, without lm-eval.

A function gets the model, the tokenizer and a list of document ids. It returns one score for each
document (the metric `score`), or a dictionary metric -> scores. Its attribute `documents` is the
number of documents that it has:

    def politeness(model, tokenizer, documents):
        return [judge(model, tokenizer, QUESTIONS[i]) for i in documents]

    politeness.documents = len(QUESTIONS)

A causal language model continues texts on the fast path, and scores answers:

    texts = model.generate(prompts, max_new_tokens=20)
    nats = model.loglikelihood(prompts, answers)

If it returns several metrics, or if lower is better, it also has an attribute `metrics`: metric ->
whether higher is better. A search file names a function as `module:function`, or by a name that a
package registers in the entry-point group `evomerge.objectives`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from evomerge.errors import ConfigError, blaming
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo
from evomerge.evaluation.tasks.objective import Measured, SingleTask
from evomerge.registry import Registry

if TYPE_CHECKING:
    from evomerge.evaluation.inference.answering import Answering

Body: TypeAlias = Callable[
    [Any, Any, Sequence[int]], Sequence[float] | Mapping[str, Sequence[float]]
]

FUNCTIONS: Registry[Body] = Registry("objective function", "evomerge.objectives", {})


_given: dict[str, Body] = {}


@contextmanager
def given(functions: Mapping[str, Body]) -> Iterator[None]:
    """Let `find` return these functions for their names until the block ends, also in threads."""
    before = dict(_given)
    _given.update(functions)
    try:
        yield
    finally:
        _given.clear()
        _given.update(before)


class ObjectiveFunction(SingleTask):
    """A Python function of a user, with the documents and metrics that its attributes name."""

    def __init__(self, body: Body, task: TaskInfo) -> None:
        super().__init__(task)
        self.body = body
        self._answers: Answering | None = None

    def measure(self, model: Any, tokenizer: Any, documents: Sequence[int]) -> Measured:
        """Return metric -> what the function gives for each document."""
        with self._answering(model, tokenizer):
            scores = self.body(model, tokenizer, documents)
        return scores if isinstance(scores, Mapping) else {"score": scores}

    def _answering(self, model: Any, tokenizer: Any) -> AbstractContextManager[None]:
        """Return what lets a model answer texts, if it is one that writes them."""
        config = getattr(model, "config", None)
        can_generate = getattr(model, "can_generate", lambda: False)()
        if config is None or config.is_encoder_decoder or not can_generate:
            return nullcontext()
        from evomerge.evaluation.inference.answering import Answering, answering

        def answers() -> Answering:
            if self._answers is None:
                self._answers = Answering(model, tokenizer)
            return self._answers

        return answering(model, answers)

    def release(self, *, engine: bool = False) -> None:
        """Drop the references to the model that was scored first."""
        self._answers = None


def find(name: str) -> ObjectiveFunction:
    """Return the objective function with this name: one that is `given`, else an imported one.

    Raises:
        ConfigError: it cannot be imported, is not a function, or has wrong attributes.
    """
    module, _, attribute = name.partition(":")
    fix = "a script or notebook had it, so go on with"
    if module != "__main__":
        fix = "give `module:function` of a module on PYTHONPATH, or go on with"
    why = (
        f"objectives: {name!r} could not be imported: {{error}}; {fix} "
        f"`evomerge.resume(RUN, objectives={{{attribute or name!r}: FUNCTION}})` in Python."
    )
    with blaming(ConfigError, why, BaseException):  # SystemExit would end evomerge without a word
        body: Any = _given.get(name)
        if body is None:
            body = getattr(import_module(module), attribute) if attribute else FUNCTIONS.get(name)
    count: Any = getattr(body, "documents", None)
    metrics: Any = getattr(body, "metrics", {"score": True})
    pairs = metrics.items() if isinstance(metrics, Mapping) else ()
    has_metrics = pairs and all((type(name), type(up)) == (str, bool) for name, up in pairs)
    if not (callable(body) and type(count) is int and count > 0 and has_metrics):
        raise ConfigError(
            f"objectives: {name!r} is {body!r:.80} with documents = {count!r:.80} and metrics = "
            f"{metrics!r:.80}; it must be a function (a kind of objective is named by `kind`), "
            "`documents` the number that it can score, and `metrics`, if wanted, say whether a "
            'higher value is better, as {"score": True}.'
        )
    info = {metric: MetricInfo(up, is_mean=True) for metric, up in metrics.items()}
    return ObjectiveFunction(body, TaskInfo(name, "function", count, info))
