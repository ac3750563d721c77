"""The requests of lm-eval's documents and of their reference answers, and what answers them.

A generated answer can be written in several forms, with or without the delimiter, ended by the end
token or a stop string. For each document that form counts which the scored model itself finds
likeliest: so a score depends on model and document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from evomerge.config.evaluation import TRANSFORMERS, Engine
from evomerge.errors import ConfigError
from evomerge.evaluation.inference.forward import Forward
from evomerge.evaluation.inference.reference import Reasoning, ReferenceLM, Request
from evomerge.evaluation.inference.rows import Form
from evomerge.evaluation.lm_eval.tasks import Harness
from evomerge.evaluation.tasks.objective import Documents

if TYPE_CHECKING:
    from evomerge.evaluation.inference.vllm import EngineForward, VllmEngine

FORMS = (Form(True, "token"), Form(False, "token"), Form(True, "stop"), Form(False, "stop"))
"""The forms of a generated answer that are tried."""


@dataclass(eq=False, kw_only=True)
class Runner:
    """Runs models on the requests of all splits: by transformers, or texts by another engine.

    Attributes:
        batch_size: maximum rows in a batch; `auto` sets it by the memory of the device.
        engine: what runs models.
        tensor_parallel: accelerators that the engine is divided over.
        sees: whether tasks show images.
        forward: answers requests, by transformers or with an engine; None: see `start`.
    """

    batch_size: int | Literal["auto"] = "auto"
    engine: Engine = TRANSFORMERS
    tensor_parallel: int = 1
    reasoning: Reasoning = field(default_factory=Reasoning)
    sees: bool = False
    forward: Forward | EngineForward | None = None
    _batched: Forward | None = None
    _running: VllmEngine | None = None

    def start(
        self, model: Any, tokenizer: Any, deepest: Callable[[], Any]
    ) -> Forward | EngineForward:
        """Return what answers the requests for models like this one; `check` it before its use.

        An engine is made for the model that `deepest` returns, and kept for later starts.
        """
        reference = ReferenceLM(model, tokenizer, self.reasoning, sees=self.sees)
        self.forward = self._batched = Forward(model, tokenizer, reference, self.batch_size)
        if self._running is None:
            self._running = self.engine.start(deepest, tokenizer, self.tensor_parallel)
        if self._running is not None:
            self.forward = self._running.answering(self._batched)
        return self.forward

    def stop(self, *, engine: bool = False) -> None:
        """Drop the references to the model of `start`, and with `engine` to a running engine."""
        self.forward = self._batched = None
        if engine:
            self._running = None

    @property
    def batched(self) -> Forward:
        """Runs models by transformers."""
        assert self._batched is not None
        return self._batched


class Requests:
    """The requests of the documents of some splits, each built when it is first needed.

    Args:
        harness: the tasks.
        runner: its reference makes tokens of requests.
        splits: the documents of each split; no two splits share one.
        seed: of texts that tasks sample. Each text has a seed of its own, by this one, the task,
            the document and the number of the repeat.
    """

    def __init__(
        self, harness: Harness, runner: Runner, splits: Sequence[Documents], seed: int
    ) -> None:
        self._harness, self._runner, self._splits, self._seed = harness, runner, splits, seed
        self._of_documents: dict[str, dict[int, list[Request]]] = {}
        self._of_answers: dict[tuple[str, int], list[Request]] = {}

    def get(self, task: str, document: int) -> list[Request]:
        """Return the requests of a document; those of its whole split are built in the first call.

        A prompt depends on the other documents of its split.
        """
        built = self._of_documents.setdefault(task, {})
        if document not in built:
            splits = (split[task] for split in self._splits if document in split.get(task, ()))
            ids, reference = sorted(next(splits)), self._runner.batched.reference
            source = f"{self._seed}/{self._harness.info.tasks[task].source}"
            instances = self._harness.build(task, ids, reference)
            for number, of_document in zip(ids, instances, strict=True):
                name = f"{source}/{number}"
                built[number] = [reference.request(instance, name) for instance in of_document]
        return built[document]

    def get_answer(self, task: str, document: int) -> list[Request]:
        """Return the requests for the log-likelihood of a document's reference answer.

        They are requests of the document itself; or, if the task generates answers, new ones, one
        for each form.

        Raises:
            ConfigError: the document has no reference answer, or no right choice; or the model is
                an encoder-decoder, whose likelihood of an answer that it would generate is not
                computed.
        """
        if (task, document) not in self._of_answers:
            self._of_answers[task, document] = self._answer(task, document)
        return self._of_answers[task, document]

    def new_answers(self, task: str, documents: Iterable[int]) -> list[list[Request]]:
        """Return the requests of `get_answer` that are not requests of the documents themselves."""
        if not self._harness.info.tasks[task].generates:
            return []
        return [self.get_answer(task, document) for document in documents]

    def _answer(self, task: str, document: int) -> list[Request]:
        requests, reference = self.get(task, document), self._runner.batched.reference
        kind, first = self._harness.info.tasks[task].kind, requests[0]
        if kind == "multiple_choice":
            return [requests[i] for i in self._harness.right_choices(task, first.instance.doc)]
        if kind != "generate_until":
            return [first]
        if reference.is_alone:
            raise ConfigError(
                f"objectives: `nll` of task {task!r} is computed for causal language models, and "
                "this model is an encoder-decoder; take another metric, or another model."
            )
        texts = ((written(self._harness, task, first, form), form.end) for form in FORMS)
        answers = (reference.answered(first, text, ended=end == "token") for text, end in texts)
        fields = {"request_type": "loglikelihood", "repeats": 1, "resps": []}
        return [
            Request(SimpleNamespace(**fields), (continuation,))
            for continuation in dict.fromkeys(answers)
        ]


def written(
    harness: Harness, task: str, request: Request, form: Form, answer: str | None = None
) -> str:
    """Return the text of the reference answer to a `generate_until` request, in a form.

    `answer` takes the place of the reference answer and its delimiter.

    Raises:
        ConfigError: the document has no reference answer.
    """
    if answer is None:
        answer, delimiter = harness.reference_answer(task, request.instance.doc)
        answer = (delimiter if form.delimiter else "") + answer
    if form.end == "stop":
        until = request.instance.args[1].get("until") or ["\n\n"]
        answer += until if isinstance(until, str) else until[0]
    return answer


def nll(requests: Sequence[Request]) -> float:
    """Return the nats of the likeliest of the requests of `get_answer`, from their answers."""
    answers = [request.instance.resps[0] for request in requests]
    return min(-float(item[0] if isinstance(item, tuple) else item) for item in answers)
