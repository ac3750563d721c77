"""lm-eval's tasks as an objective: models answer their requests, in batches of all tasks together.

The metric `nll` is the negative log-likelihood of a document's reference answer, in nats. It is
summed over the tokens of the answer, with lm-eval's own prompt. Where the task compares
log-likelihoods itself, it is that of its own request: of the right choice (of several right ones,
the likeliest), or of the scored text. For generated answers see `requests.py`.
"""

import copy
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Self

from evomerge.errors import ConfigError
from evomerge.evaluation.inference.generation import unsupported_setting
from evomerge.evaluation.inference.reference import ReferenceLM, processor_of
from evomerge.evaluation.lm_eval.code import has_bubblewrap
from evomerge.evaluation.lm_eval.metrics import Instance, example, unanswered
from evomerge.evaluation.lm_eval.requests import Requests, Runner, nll
from evomerge.evaluation.lm_eval.tasks import Harness
from evomerge.evaluation.tasks.info import TaskInfo, sampling_note
from evomerge.evaluation.tasks.objective import (
    DocumentMetrics,
    Documents,
    Merges,
    MetricRows,
    Objective,
    Summary,
    plain,
)
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.parts import check_causal, check_chat_template, is_encoder_decoder
from evomerge.scores import NLL, TOKENS, Example, Split

_CUTTING = {"regexes_to_ignore", "kwargs"}
"""Settings of a metric by which it may look at a part of an answer."""

_KEEPING = {"remove_whitespace", "take_first"}
"""Filters that leave an answer whole."""

_KNOWN = re.compile(
    r"^(mmlu|gsm8k|gsm_plus|mgsm|hellaswag|arc_(easy|challenge)|winogrande|truthfulqa|bbh|gpqa|"
    r"ifeval|humaneval|mbpp|piqa|boolq|openbookqa|lambada|triviaqa|nq_open|squad|drop|race|"
    r"hendrycks|minerva_math|math_|musr|leaderboard|agieval|cmmlu|ceval|jmmlu|xnli|xcopa|belebele|"
    r"wikitext|super_?glue|glue|anli|commonsense_qa|social_iqa|sciq|logiqa|toxigen|aime)"
)


class LmEval(Objective):
    """Some of lm-eval's tasks, with the requests of their documents, which are built once.

    Args:
        harness: the tasks.
        runner: runs models on them, and on the tasks of other splits.
        counted, referenced: the tasks with the metric `tokens`, how many a model has generated, and
            with the metric `nll`, for which reference answers are scored.
        seed: of texts that tasks sample; see `Requests`.
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
        self._answered: dict[tuple[str, int], list[Instance]] = {}
        """The latest answers to documents, which stay when another model is prepared."""

    def with_documents_from(
        self, replacements: Mapping[str, str], task_splits: Mapping[str, str], where: str
    ) -> Self:
        """Return the objective with other documents; see `Harness.with_documents_from`."""
        other = copy.copy(self)
        other.harness = self.harness.with_documents_from(replacements, task_splits, where)
        other.info = other.harness.info
        other.runner.sees |= bool(other.needed_parts())
        other._answered = {}
        return other

    def needed_parts(self) -> frozenset[str]:
        """Return `vision` if a task shows images."""
        sees = any(task.shows_images for task in self.info.tasks.values())
        return frozenset({"vision"} if sees else ())

    def check(self, merges: Merges) -> None:
        """Check that models write texts, and what lm-eval's own classes answer for them.

        That is tasks that show images, and encoder-decoders.

        InputError: the host writes no texts, has no chat template, cannot see, or does not give the
        tokenizer; or what is asked for needs our own ways: likelihoods of reference answers,
        gradients, vLLM.
        """
        host, tasks, engine = merges.host, self.info.tasks, self.runner.engine
        check_causal(host)
        if self.harness.apply_chat_template and merges.vocabulary == "base":
            check_chat_template(host)
        if alone := [name for name, info in tasks.items() if info.shows_images]:
            if "vision" not in host.modalities:
                raise ConfigError(
                    f"objectives: task {alone[0]!r} shows images, but the host {host.reference!r} "
                    "has no vision tower; set `space.host` to a parent that sees."
                )
            if merges.vocabulary not in ("base", "union", host.reference):
                raise ConfigError(
                    f"`tokenizer` is {merges.vocabulary!r}, but task {alone[0]!r} shows images, "
                    f"which needs the host's tokens; set it to base, union or {host.reference!r}."
                )
            processor_of(host.folder, None)
            what = f"task {alone[0]!r} shows images, so lm-eval itself generates its answers"
        elif alone := [*tasks] if is_encoder_decoder(host) else []:
            reason = f"the host {host.reference!r} is an encoder-decoder"
            what = f"{reason}, whose tasks lm-eval itself runs"
        for key, is_wanted in {
            f"evaluation.backend is {engine.name!r}": engine.is_separate,
            "optimizer uses gradients": merges.descends,
            "an objective or constraint is `nll`": bool({*self.referenced} & {*alone}),
        }.items():
            if alone and is_wanted:
                raise ConfigError(
                    f"objectives: {what}, but {key}, which it cannot do; change this, or take text "
                    "tasks and causal language models."
                )
        if engine.is_separate and (setting := self._slow_setting(merges)) is not None:
            raise ConfigError(
                f"evaluation.backend is {engine.name!r}, but {host.reference!r} sets {setting!r} "
                "in generation_config.json, which it does not know; remove it there, or use 'hf'."
            )

    def _slow_setting(self, merges: Merges) -> str | None:
        """Return a setting of the merges' generation config that only lm-eval itself knows."""
        texts = [task for task in self.info.tasks.values() if task.generates]
        settings = merges.generation() if texts and not is_encoder_decoder(merges.host) else None
        return None if settings is None else unsupported_setting(settings)

    def words(self, merges: Merges) -> Mapping[str, Any]:
        """Return what runs models and the code that they write, and how texts are drawn."""
        texts = [task for task in self.info.tasks.values() if task.generates]
        runs = self.runner.engine.name
        if self.runner.engine.is_separate:
            names = ", ".join(task.name for task in texts) or "none"
            runs += f" for texts ({names}), hf for log-likelihoods and gradients"
        code = f"runs in processes with limits{', in bubblewrap' if has_bubblewrap() else ''}"
        sampled = {name: it.repeats for name, it in self.info.tasks.items() if it.is_sampled}
        return {
            "backend": runs,
            "code": code if self.harness.origins else None,
            "sampling": sampling_note(sampled),
        }

    def warnings(self, merges: Merges) -> Iterator[str]:
        """Yield what costs time or does nothing, and what code of models may do."""
        if (setting := self._slow_setting(merges)) is not None:
            yield (
                f"{merges.host.reference!r} sets {setting!r} in generation_config.json, so lm-eval "
                "itself generates the texts, which takes more time; remove it there if unwanted."
            )
        if (tasks := self.harness.origins) and not has_bubblewrap():
            yield (
                f"code that models write for {', '.join(tasks)} can read and change your files and "
                "use the network, since only its time and memory are limited (docs/evaluation.md); "
                "run the search in a container that holds nothing else, or install bubblewrap."
            )

    def benchmarks(self) -> Iterator[str]:
        """Yield warnings of tasks that are public benchmarks."""
        return filter(None, map(benchmark_warning, self.info.tasks.values()))

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
        steps = (step for own in asked("filter_list") or () for step in own["filter"])
        is_cut = not all(step["function"] in _KEEPING for step in steps)
        cuts = is_cut or asked("process_results") or self.runner.reasoning.end
        metrics = [item for item in asked("metric_list") or () if item["metric"] == metric]
        is_exact = metric == "exact_match" and not any(map(_CUTTING.intersection, metrics))
        return is_exact and not cuts

    def digest(self, task: str, ids: Sequence[int]) -> str:
        """Return the digest of what a task's scores on some documents depend on."""
        return self.harness.digest(task, ids)

    def forms(self, task: str, *, rendered: bool) -> Callable[[int], Sequence[str]]:
        """Return a function: document id -> texts by which the document is compared with others."""
        return self.harness.forms(task, rendered=rendered)

    def prepare(
        self, model: Any, tokenizer: Any, splits: Sequence[Documents], deepest: Callable[[], Any]
    ) -> None:
        """Set the documents; start the runner, which chooses the fastest way that is right.

        A runner is shared with the objectives of other splits, and the first of them starts it. For
        its choice it scores a few documents of the first split in different ways on `model`: one of
        the architecture that will be scored, on its device, with meaningful weights (a parent's).

        Raises:
            ConfigError: a task needs longer inputs than the model can read, or a document has no
                reference answer.
        """
        self.requests = Requests(self.harness, self.runner, splits, self.seed)
        if self.runner.forward is not None:
            return
        forward = self.runner.start(model, tokenizer, deepest)
        first = {task: sorted(ids) for task, ids in splits[0].items() if task in self.info.tasks}
        tried = [[self.requests.get(task, i) for i in ids] for task, ids in first.items()]
        for task in self._referenced(first):
            if answers := self.requests.new_answers(task, first[task]):
                tried.append(answers)
        forward.check(model, tried)

    def _referenced(self, documents: Documents) -> list[str]:
        """Return the tasks of documents whose reference answers are scored."""
        return [task for task in documents if task in self.referenced]

    def release(self, *, engine: bool = False) -> None:
        """Drop the references to the model of `prepare`, and to a vLLM engine if that is wanted."""
        self.runner.stop(engine=engine)

    @property
    def oom_backoffs(self) -> int:
        """How often the batch limits were halved because memory ran out."""
        return 0 if self.runner.forward is None else self.runner.batched.oom_backoffs

    def halve_batches(self, oom_backoffs: int) -> None:
        """Halve the batch limits until they have been halved `oom_backoffs` times or more."""
        if self.runner.forward is not None:
            self.runner.batched.halve(oom_backoffs)

    def score(self, model: Any, tokenizer: Any, documents: Documents) -> MetricRows:
        """Run a model on the requests of documents; return task -> the metrics of each."""
        requests = [self.requests.get(task, i) for task, ids in documents.items() for i in ids]
        for task in self._referenced(documents):
            requests += self.requests.new_answers(task, documents[task])
        assert self.runner.forward is not None
        self.runner.forward(model, (self, tuple(documents.items())), requests)
        return {task: self._metrics(task, ids) for task, ids in documents.items()}

    def _metrics(self, task: str, ids: Sequence[int]) -> list[DocumentMetrics]:
        """Return the metrics of documents from the answers in their requests."""
        requests = {document: self.requests.get(task, document) for document in ids}
        answered = {i: [request.instance for request in own] for i, own in requests.items()}
        self._answered |= {(task, i): instances for i, instances in answered.items()}
        rows = self.harness.measure(task, list(answered.values()))
        for document, row in zip(ids, rows, strict=True):
            if task in self.counted:
                counts = [count for request in requests[document] for count in request.generated]
                row[TOKENS] = sum(counts) / len(counts)
            if task in self.referenced:
                row[NLL] = nll(self.requests.get_answer(task, document))
        return rows

    def summary(self, task: str, rows: Sequence[DocumentMetrics]) -> Summary:
        """Return the numbers of documents, and lm-eval's own aggregates of all."""
        return self.harness.summary(task, rows)

    def example(self, task: str, document: int, values: Mapping[str, float]) -> Example:
        """Return a document as people read it, with the latest answer and these values."""
        answered = self._answered[task, document]
        return example(self.harness.tasks[task], task, document, answered, values)

    def prompts(
        self, model: Any, tokenizer: Any, documents: Documents, count: int
    ) -> list[Example]:
        """Return the first documents of each task with their prompts; see `Objective.prompts`."""
        reference = ReferenceLM(model, tokenizer, self.runner.reasoning, sees=self.runner.sees)
        return [
            unanswered(self.harness.tasks[task], task, document, requests[0])
            for task, ids in documents.items()
            # All are built, since few-shot examples are drawn in the order of the documents.
            for document, requests in list(
                zip(ids, self.harness.build(task, ids, reference), strict=True)
            )[:count]
        ]

    def texts(self, task: str, documents: Sequence[int]) -> dict[int, str]:
        """Return the latest answers to documents that a model generates answers to."""
        return {i: plain(str(self._answered[task, i][0].resps[0])) for i in documents}


def benchmark_warning(task: TaskInfo) -> str | None:
    """Return a warning if a search would optimize on a public benchmark's own test documents."""
    split = task.task_splits.get(task.task_split, task.task_split).lower()
    if not _KNOWN.match(task.name.lower()) or not split.startswith(("test", "val")):
        return None
    own = "a task of your own in evaluation.include (a translation of it, or your own questions)"
    if "training" in task.task_splits:
        own = f"its training documents (evaluation.search.task_split: training), or {own}"
    return (
        f"the search optimizes on the {split} documents of the public benchmark {task.name!r}, so "
        "its score on that benchmark will say nothing about other models' scores on it; search on "
        f"{own}, and keep the benchmark for the test (--allow-benchmarks silences this)."
    )
