"""lm-eval's tasks as an objective: models answer their requests, in batches of all tasks together.

The metric `nll` is the negative log-likelihood of a document's reference answer, in nats. It is
summed over the tokens of the answer, with lm-eval's own prompt. Where the task compares
log-likelihoods itself, it is that of its own request: of the right choice (of several right ones,
the likeliest), or of the scored text. A generated answer can be written in several forms, with or
without the delimiter, ended by the end token or a stop string. For each document that form counts
which the scored model itself finds likeliest: so a score depends on model and document.
"""

import copy
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal, Self

from evomerge.errors import ConfigError
from evomerge.evaluation.inference.forward import Forward
from evomerge.evaluation.inference.reference import Reasoning, ReferenceLM, Request
from evomerge.evaluation.inference.rows import Form, spread
from evomerge.evaluation.inference.vllm import EngineForward, VllmEngine
from evomerge.evaluation.tasks.digests import RENDERED, plain_value, task_digest
from evomerge.evaluation.tasks.harness import Harness
from evomerge.evaluation.tasks.loading import shows_images
from evomerge.evaluation.tasks.objective import Documents, MetricRows, Summary
from evomerge.evaluation.tasks.scoring import DocumentMetrics, example, plain
from evomerge.evaluation.tasks.suitable import Suitable
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.parts import is_encoder_decoder
from evomerge.scores import NLL, TOKENS, Example, Split
from evomerge.trust.calls import calling

FORMS = (Form(True, "token"), Form(False, "token"), Form(True, "stop"), Form(False, "stop"))
"""The forms of a generated answer that are tried."""

_CUTTING = {"regexes_to_ignore", "kwargs"}
"""Settings of a metric by which it may look at a part of an answer."""


@dataclass(eq=False, kw_only=True)
class Runner:
    """Runs models on the requests of all splits: by transformers, or texts by a vLLM engine.

    Attributes:
        batch_size: maximum rows in a batch; `auto` sets it by the memory of the device.
        backend: `hf` runs models by transformers; `vllm` generates texts with a vLLM engine.
        tensor_parallel: accelerators that the engine is divided over.
        sees: whether tasks show images.
        batched: runs models by transformers; `forward` may use an engine too. None: see `prepare`.
    """

    batch_size: int | Literal["auto"] = "auto"
    backend: Literal["hf", "vllm"] = "hf"
    tensor_parallel: int = 1
    reasoning: Reasoning = field(default_factory=Reasoning)
    sees: bool = False
    batched: Forward | None = None
    forward: Forward | EngineForward | None = None
    engine: VllmEngine | None = None


class LmEval(Suitable):
    """Some of lm-eval's tasks, with the requests of their documents, which are built once.

    Args:
        harness: the tasks.
        runner: runs models on them, and on the tasks of other splits.
        counted, referenced: the tasks with the metric `tokens`, how many a model has generated, and
            with the metric `nll`, for which reference answers are scored.
        seed: of texts that tasks sample. Each text has a seed of its own, by this one, the task,
            the document and the number of the repeat.
    """

    is_foreign, uses_templates = False, False
    has_answers, writes = True, True
    origin = "YAML and data"
    packages = ("lm_eval",)
    imports = ("lm_eval.tasks", "lm_eval.models.huggingface", "datasets")

    def __init__(
        self,
        harness: Harness,
        runner: Runner | None = None,
        *,
        counted: Collection[str] = (),
        referenced: Collection[str] = (),
        seed: int = 0,
    ) -> None:
        self.harness, self.info, self.runner = harness, harness.info, runner or Runner()
        self.counted, self.referenced, self.seed = counted, referenced, seed
        self.runner.sees |= bool(self.needed_parts())
        self.backend = self.runner.backend
        self._answered: dict[tuple[str, int], list[Any]] = {}
        """The latest answers to documents, which stay when another model is prepared."""
        self._forget()

    def _forget(self) -> None:
        self._splits: Sequence[Documents] = ()
        self._requests: dict[str, dict[int, list[Request]]] = {}
        self._references: dict[tuple[str, int], list[Request]] = {}

    def with_documents_from(
        self, replacements: Mapping[str, str], task_splits: Mapping[str, str], where: str
    ) -> Self:
        """Return the objective with other documents; see `Harness.with_documents_from`."""
        other = copy.copy(self)
        other.harness = self.harness.with_documents_from(replacements, task_splits, where)
        other.info = other.harness.info
        other.runner.sees |= bool(other.needed_parts())
        other._answered = {}
        other._forget()
        return other

    def needed_parts(self) -> frozenset[str]:
        """Return `vision` if a task shows images."""
        sees = any(task.shows_images for task in self.info.tasks.values())
        return frozenset({"vision"} if sees else ())

    def check_documents(self, documents: Documents, split: Split) -> None:
        """Check that each document of a task with the metric `nll` has a reference answer."""
        for task in sorted(self.referenced):
            self.check_answers(task, documents.get(task, ()))

    def can_teach(self, host: Checkpoint) -> bool:
        """Whether models are causal: lm-eval itself runs encoder-decoders, without gradients."""
        return not is_encoder_decoder(host)

    def check_answers(self, task: str, ids: Sequence[int]) -> None:
        """Raise a ConfigError unless documents have a reference answer, or a right choice."""
        harness, kind = self.harness, self.info.tasks[task].kind
        documents = harness.tasks[task].eval_docs
        for document in ids:
            if kind == "generate_until":
                harness.reference_answer(task, documents[document])
            elif kind == "multiple_choice":
                harness.right_choices(task, documents[document])

    def learns_whole(self, task: str, metric: str) -> bool:
        """Whether a choice is right, or a text that no filter has cut equals the reference.

        Where a filter or the metric looks for the answer in a text, as in most tasks with a chain
        of thought, the reference may be but the end of what a model should write.
        """
        if (kind := self.info.tasks[task].kind) != "generate_until":
            return kind == "multiple_choice"
        asked = self.harness.tasks[task].get_config
        cuts = asked("filter_list") or asked("process_results") or self.runner.reasoning.end
        metrics = [item for item in asked("metric_list") or () if item["metric"] == metric]
        is_exact = metric == "exact_match" and not any(map(_CUTTING.intersection, metrics))
        return is_exact and not cuts

    def digest(self, task: str, ids: Sequence[int]) -> str:
        """Return the digest of what a task's scores on some documents depend on.

        Chat templates belong to the tokenizer, so prompts count without them.
        """
        requests = self.harness.build(task, spread(ids, RENDERED), None)
        with calling():
            return task_digest(self.harness.tasks[task], ids, requests)

    def forms(self, task: str, *, rendered: bool) -> Callable[[int], Sequence[str]]:
        """Return a function: document id -> texts by which the document is compared with others.

        The first text has the raw fields of the document; `rendered` adds one of question, choices
        and answer, which can be compared with documents of other data sets.
        """
        subject = self.harness.tasks[task]
        documents = subject.eval_docs  # kept, since lm-eval creates them again at each access

        def texts(document: int) -> list[str]:
            content = documents[document]
            forms = [json.dumps(dict(content), sort_keys=True, default=plain_value)]
            if rendered:
                with calling():
                    parts = [subject.doc_to_text(content), subject.doc_to_target(content)]
                    if subject.get_config("doc_to_choice"):
                        parts.append(subject.doc_to_choice(content))
                    if shows_images(subject):
                        parts += map(plain_value, subject.doc_to_image(content))
                forms.append(" ".join(str(parts).casefold().split()))
            return forms

        return texts

    def prepare(
        self, model: Any, tokenizer: Any, splits: Sequence[Documents], deepest: Callable[[], Any]
    ) -> None:
        """Choose the fastest way to run models that gives right results, if no split has done so.

        A few documents of the first split are scored in different ways on `model`: one of the
        architecture that will be scored, on its device, with meaningful weights (a parent's).

        Raises:
            ConfigError: a task needs longer inputs than the model can read, or a document has no
                reference answer.
        """
        self._forget()
        self._splits = splits
        runner = self.runner
        if runner.forward is not None:
            return
        reference = ReferenceLM(model, tokenizer, runner.reasoning, sees=runner.sees)
        runner.forward = runner.batched = Forward(model, tokenizer, reference, runner.batch_size)
        if runner.backend == "vllm":
            engine = runner.engine or VllmEngine(deepest(), tokenizer, runner.tensor_parallel)
            runner.engine, runner.forward = engine, EngineForward(runner.batched, engine)
        tasks = [(task, ids) for task, ids in splits[0].items() if task in self.info.tasks]
        requests = [[self.requests(task, i) for i in sorted(ids)] for task, ids in tasks]
        written = [self._written(task, ids) for task, ids in tasks]
        runner.forward.check(model, [*requests, *filter(None, written)])

    def release(self, *, engine: bool = False) -> None:
        """Drop the references to the model of `prepare`, and to a vLLM engine if that is wanted."""
        self.runner.forward = self.runner.batched = None
        if engine:
            self.runner.engine = None

    @property
    def batched(self) -> Forward:
        """Runs models by transformers."""
        assert self.runner.batched is not None
        return self.runner.batched

    @property
    def oom_backoffs(self) -> int:
        """How often the batch limits were halved because memory ran out."""
        return 0 if self.runner.batched is None else self.runner.batched.oom_backoffs

    def halve_batches(self, oom_backoffs: int) -> None:
        """Halve the batch limits until they have been halved `oom_backoffs` times or more."""
        if self.runner.batched is not None:
            self.runner.batched.halve(oom_backoffs)

    def score(self, model: Any, tokenizer: Any, documents: Documents) -> MetricRows:
        """Run a model on the requests of documents; return task -> the metrics of each."""
        requests = [self.requests(task, i) for task, ids in documents.items() for i in ids]
        for task, ids in documents.items():
            requests += self._written(task, ids)
        assert self.runner.forward is not None
        self.runner.forward(model, (self, tuple(documents.items())), requests)
        return {task: self._measured(task, ids) for task, ids in documents.items()}

    def _measured(self, task: str, ids: Sequence[int]) -> list[DocumentMetrics]:
        """Return the metrics of documents from the answers in their requests."""
        requests = [self.requests(task, document) for document in ids]
        answered = [[item.instance for item in of] for of in requests]
        self._answered |= {(task, i): of for i, of in zip(ids, answered, strict=True)}
        rows = self.harness.measure(task, answered)
        for document, of, row in zip(ids, requests, rows, strict=True):
            if task in self.counted:
                counts = [count for item in of for count in item.generated]
                row[TOKENS] = sum(counts) / len(counts)
            if task in self.referenced:
                row[NLL] = nll(self.references(task, document))
        return rows

    def summary(self, task: str, rows: Sequence[DocumentMetrics]) -> Summary:
        """Return the numbers of documents, and lm-eval's own aggregates of all."""
        return self.harness.summary(task, rows)

    def requests(self, task: str, document: int) -> list[Request]:
        """Return the requests of a document; those of its split are built in the first call.

        A prompt depends on the other documents of its split; no two splits share a document.
        """
        kept = self._requests.setdefault(task, {})
        if document not in kept:
            splits = (split[task] for split in self._splits if document in split.get(task, ()))
            ids, reference = sorted(next(splits)), self.batched.reference
            source = f"{self.seed}/{self.info.tasks[task].source}"
            for number, items in zip(ids, self.harness.build(task, ids, reference), strict=True):
                kept[number] = [reference.request(item, f"{source}/{number}") for item in items]
        return kept[document]

    def references(self, task: str, document: int) -> list[Request]:
        """Return the requests for the log-likelihood of a document's reference answer.

        They are requests of the document itself; or, if the task generates answers, new ones, one
        for each form.

        Raises:
            ConfigError: the document has no reference answer, or no right choice; or the model is
                an encoder-decoder, whose likelihood of an answer that it would generate is not
                computed.
        """
        if (task, document) not in self._references:
            self._references[task, document] = self._reference(task, document)
        return self._references[task, document]

    def _reference(self, task: str, document: int) -> list[Request]:
        requests, reference = self.requests(task, document), self.batched.reference
        kind, first = self.info.tasks[task].kind, requests[0]
        if kind == "multiple_choice":
            return [requests[i] for i in self.harness.right_choices(task, first.instance.doc)]
        if kind != "generate_until":
            return [first]
        if reference.is_alone:
            raise ConfigError(
                f"objectives: `nll` of task {task!r} is computed for causal language models, and "
                "this model is an encoder-decoder; take another metric, or another model."
            )
        texts = ((written(self.harness, task, first, form), form.end) for form in FORMS)
        forms = (reference.answered(first, text, ended=end == "token") for text, end in texts)
        fields = {"request_type": "loglikelihood", "repeats": 1, "resps": []}
        return [Request(SimpleNamespace(**fields), (item,)) for item in dict.fromkeys(forms)]

    def _written(self, task: str, ids: Iterable[int]) -> list[list[Request]]:
        """Return the requests for the reference answers of documents that are not their own."""
        if task not in self.referenced or self.info.tasks[task].kind != "generate_until":
            return []
        return [self.references(task, document) for document in ids]

    def example(self, task: str, document: int, values: Mapping[str, float]) -> Example:
        """Return a document as people read it, with the latest answer and these values."""
        answered = self._answered[task, document]
        return example(self.harness.tasks[task], task, document, answered, values)

    def texts(self, task: str, documents: Sequence[int]) -> dict[int, str]:
        """Return the latest answers to documents that a model generates answers to."""
        return {i: plain(str(self._answered[task, i][0].resps[0])) for i in documents}


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
    """Return the nats of the likeliest of the requests of `references`, from their answers."""
    answers = [request.instance.resps[0] for request in requests]
    return min(-float(item[0] if isinstance(item, tuple) else item) for item in answers)
