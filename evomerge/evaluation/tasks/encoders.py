"""What sentence encoders are scored on: rows of a file, and metrics of their texts' embeddings.

The rows have the columns that sentence-transformers and MTEB use, and each but a training row is a
document:

    sts             {"sentence1": "...", "sentence2": "...", "score": 3.5}
    retrieval       {"query": "...", "positive": ["...", "..."], "negative": ["...", "..."]}
    classification  {"text": "...", "label": "..."}; with "train": true the probe learns from it

See also `rows.py`. Texts are encoded as `SentenceTransformer.encode` does it; what depends on the
tokenizer only is done once.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from tokenizers import normalizers
from torch import Tensor
from torch.nn.functional import normalize

from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluation.inference.batches import batching
from evomerge.evaluation.tasks.objective import Documents, Measured
from evomerge.evaluation.tasks.rows import VALUES, BatchSize, Columns, Row, RowsObjective
from evomerge.models.modules import STACK, ModuleStack, max_length
from evomerge.scores import ENCODER_METRICS, Split

Role: TypeAlias = Literal["text", "query", "document"]
"""What a text is to a model that has different prompts or lengths for queries and documents."""


class _Plan(NamedTuple):
    """The padded batches of different texts, the row of each text, and the tokens of the prompt."""

    rows: dict[str, int]
    batches: list[dict[str, Tensor]]
    prompt: int


@dataclass
class TextEncoder:
    """Encodes texts with one model after the other, in batches of at most `batch_size` rows."""

    batch_size: BatchSize = "auto"
    _made_for: tuple[Any, ModuleStack] | None = None
    _plans: dict[Role, _Plan] = field(default_factory=dict)

    @torch.inference_mode()
    def __call__(
        self, model: Any, tokenizer: Any, texts: Iterable[str], role: Role = "text"
    ) -> Tensor:
        """Return the embeddings of texts: a float64 matrix on the CPU with one row for each.

        Equal texts are encoded once.

        Raises:
            CandidateError: a number of an embedding is not finite.
        """
        stack, texts = stack_of(model), list(texts)
        if (tokenizer, stack) != self._made_for:
            self._made_for, self._plans = (tokenizer, stack), {}
        plan = self._plans.get(role)
        if plan is None or plan.rows.keys() != set(texts):
            plan = self._plans[role] = self._plan(model, tokenizer, texts, role)
        embeddings = torch.cat([_encoded(model, batch, plan.prompt) for batch in plan.batches])
        if not embeddings.isfinite().all():
            raise CandidateError("The model's embeddings are not finite numbers.")
        return embeddings[[plan.rows[text] for text in texts]]

    def _plan(self, model: Any, tokenizer: Any, texts: Sequence[str], role: Role) -> _Plan:
        stack, distinct = stack_of(model), list(dict.fromkeys(texts))
        settings = stack.modules[0].settings
        if settings.get("do_lower_case"):
            tokenizer = copy.deepcopy(tokenizer)
            core = tokenizer.backend_tokenizer
            before = filter(None, [core.normalizer])
            core.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
        limit = max_length(settings, tokenizer.model_max_length, model.config.to_dict(), role)
        options: dict[str, Any] = {"truncation": True, "max_length": limit} if limit else {}
        prompt = stack.prompt if role == "text" else stack.prompts[role]
        prompted = [prompt + text for text in distinct]
        lengths = list(map(len, tokenizer(prompted, **options)["input_ids"]))
        groups = batching(model, self.batch_size).cut(lengths)
        options |= {"padding": True, "return_tensors": "pt"}
        batches = [dict(tokenizer([prompted[i] for i in group], **options)) for group in groups]
        order = [distinct[place] for group in groups for place in group]
        rows = {text: row for row, text in enumerate(order)}
        ids = tokenizer(prompt)["input_ids"] if prompt else []  # a special token may be behind it
        ended = bool(ids) and ids[-1] in tokenizer.all_special_ids
        return _Plan(rows, batches, len(ids) - ended)


def _encoded(model: Any, batch: Mapping[str, Tensor], prompt: int) -> Tensor:
    """Return the embeddings of a batch; `prompt`: tokens before each text."""
    stack = stack_of(model)
    transformer = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    parameters = inspect.signature(transformer.forward).parameters
    inputs = {name: item.to(model.device) for name, item in batch.items()}
    output = transformer(**{name: item for name, item in inputs.items() if name in parameters})
    features = {**inputs, "token_embeddings": output.last_hidden_state}
    if prompt:
        features["prompt_length"] = prompt
    for folder in stack.folders:
        features = getattr(model, folder)(features)
    embeddings: Tensor = features["sentence_embedding"][:, : stack.settings.get("truncate_dim")]
    return embeddings.double().cpu()


def stack_of(model: Any) -> ModuleStack:
    """Return the modules that were added to a model."""
    stack: ModuleStack = getattr(model, STACK)
    return stack


Encode: TypeAlias = Callable[[Sequence[str], Role], Tensor]
"""Returns the embeddings of texts, one in each row."""

Similarity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Returns how similar each row of one matrix is to each row of another."""

_SIMILARITIES: Mapping[str, Similarity] = {
    "cosine": lambda a, b: normalize(a) @ normalize(b).T,
    "dot": lambda a, b: a @ b.T,
    "euclidean": lambda a, b: -torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist"),
    "manhattan": lambda a, b: -torch.cdist(a, b, p=1.0),
}
"""Those that a model can name in its config, with sentence-transformers' names."""

_FIRST = 10  # passages that the metrics of retrieval look at
_SAME = 1e-6  # difference of embeddings, as a share of their largest number: that of batches
_DIGITS = 9  # decimals of similarities; the last bits of a product depend on a passage's place


class EncoderObjective(RowsObjective):
    """A kind of objective of sentence encoders."""

    is_foreign, can_race, needs_modules, uses_templates = False, False, True, False
    packages = ("sentence-transformers", "scikit-learn")
    imports = ("sentence_transformers.sentence_transformer.modules",)

    @cached_property
    def _encoder(self) -> TextEncoder:
        return TextEncoder(self.batch_size)

    def measure(self, model: Any, tokenizer: Any, documents: Sequence[int]) -> Measured:
        """Return what a model has on documents.

        Raises:
            CandidateError: an embedding is not finite, or all texts have the same.
        """

        def encode(texts: Sequence[str], role: Role) -> Tensor:
            embeddings = self._encoder(model, tokenizer, texts, role)
            count, width = len(set(texts)), float((embeddings - embeddings[0]).abs().max())
            if role != "query" and count > 1 and width <= _SAME * float(embeddings.abs().max()):
                raise CandidateError(
                    f"The model has collapsed: it gives all {count} different texts of "
                    f"{self.task.name!r} the same embedding, so its scores would mean nothing."
                )
            return embeddings

        similarity = _SIMILARITIES[stack_of(model).similarity]
        return self._measured([self.rows[i] for i in documents], encode, similarity)

    @abstractmethod
    def _measured(self, rows: Sequence[Row], encode: Encode, similarity: Similarity) -> Measured:
        """Return what a model has on rows, by their texts' embeddings."""


def _passages(value: Any, where: str) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(VALUES.text(text, where) for text in texts))


class Sts(EncoderObjective):
    """How well similarities of two sentences agree with scores: correlations over all documents."""

    metrics, compared = ENCODER_METRICS["sts"], ("sentence1", "sentence2")
    needed = (*compared, "score")
    columns: ClassVar[Columns] = {**dict.fromkeys(compared, VALUES.text), "score": VALUES.real}
    row_text = '{"sentence1": "...", "sentence2": "...", "score": 3.5}'
    of_all = metrics

    def check_documents(self, documents: Documents, split: Split) -> None:
        """Check that some pairs have other scores than the rest, which correlations need."""
        ids = documents[self.name]
        if len({self.rows[i]["score"] for i in ids}) < 2:
            raise ConfigError(
                f"evaluation.{split}: the documents of {self.name!r} ({len(ids)}) have one "
                f"score, {self.rows[ids[0]]['score']:g}, and a correlation needs two that differ; "
                f"set `evaluation.{split}.documents` to more, or give other rows."
            )

    def _measured(self, rows: Sequence[Row], encode: Encode, similarity: Similarity) -> Measured:
        texts = [row[key] for key in self.compared for row in rows]
        triples = zip(*encode(texts, "text").chunk(2), rows, strict=True)
        pairs = tuple((float(similarity(a[None], b[None])), row["score"]) for a, b, row in triples)
        return dict.fromkeys(self.metrics, pairs)

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """Return the correlation of pairs; nan if all similarities, or all scores, are equal."""
        from scipy.stats import rankdata

        columns = np.asarray(values, dtype=np.float64).T
        columns = rankdata(columns, axis=1) if metric == "spearman" else columns
        one, other = columns - columns.mean(axis=1, keepdims=True)
        size = float(np.sqrt((one @ one) * (other @ other)))
        return float(one @ other) / size if size else float("nan")


class Retrieval(EncoderObjective):
    """How high queries rank their passages among all passages of the file.

    Of equally similar passages the wrong ones rank first, whatever the order of the file.
    """

    metrics, needed = ENCODER_METRICS["retrieval"], ("query", "positive")
    columns: ClassVar[Columns] = {
        "query": VALUES.text,
        "positive": lambda value, where: VALUES.items(_passages(value, where), where, least=1),
        "negative": lambda value, where: _passages(value or [], where),
    }
    row_text = '{"query": "...", "positive": ["..."], "negative": ["..."]}, the last if wanted'
    compared = ("query",)

    @cached_property
    def _passages(self) -> Mapping[str, int]:
        """The column of each passage of the file."""
        passages = (t for row in self.rows for t in (*row["positive"], *row.get("negative", ())))
        return {text: place for place, text in enumerate(dict.fromkeys(passages))}

    def _measured(self, rows: Sequence[Row], encode: Encode, similarity: Similarity) -> Measured:
        queries = encode([row["query"] for row in rows], "query")
        scores = similarity(queries, encode(list(self._passages), "document"))
        gains = 1 / np.log2(np.arange(2, _FIRST + 2))
        values: dict[str, list[float]] = {metric: [] for metric in self.metrics}
        for row, similar in zip(rows, scores.numpy().round(_DIGITS), strict=True):
            right = np.zeros(len(similar))
            right[[self._passages[text] for text in row["positive"]]] = 1
            hits = right[np.lexsort((right, -similar))[:_FIRST]]
            count = int(right.sum())
            values["ndcg@10"].append(float(hits @ gains[: len(hits)] / gains[:count].sum()))
            values["recall@10"].append(float(hits.sum()) / count)
            values["mrr@10"].append(1 / (1 + float(np.argmax(hits))) if hits.any() else 0.0)
        return values


class Classification(EncoderObjective):
    """Whether a linear probe, which learns from the training rows, finds the label of a text."""

    metrics, needed = ENCODER_METRICS["classification"], ("text", "label")
    columns: ClassVar[Columns] = {
        "text": VALUES.text,
        "label": lambda value, where: str(VALUES.label(value, where)),
        "train": VALUES.flag,
    }
    row_text = '{"text": "...", "label": "...", "train": true}, the last where the probe learns'
    compared = ("text",)

    def __init__(self, name: str, rows: Sequence[Row], digest: str, batch_size: BatchSize) -> None:
        self._train = [row for row in rows if row.get("train")]
        super().__init__(name, [row for row in rows if not row.get("train")], digest, batch_size)
        labels = {row["label"] for row in self._train}
        if len(labels) < 2:
            raise ConfigError(
                f"objectives: {name} has {len(self._train)} rows with `train`: true and "
                f"{len(labels)} labels in them; add `train`: true to rows of two labels or more."
            )

    def _measured(self, rows: Sequence[Row], encode: Encode, similarity: Similarity) -> Measured:
        from sklearn.linear_model import LogisticRegression

        texts, known = [row["text"] for row in (*self._train, *rows)], len(self._train)
        embeddings = encode(texts, "text").numpy()
        probe = LogisticRegression(max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it may not have converged
            probe.fit(embeddings[:known], [row["label"] for row in self._train])
        pairs = zip(probe.predict(embeddings[known:]), rows, strict=True)
        return {"accuracy": tuple(float(answer == row["label"]) for answer, row in pairs)}
