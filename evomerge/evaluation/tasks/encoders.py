"""What sentence encoders are scored on: rows of a file, and metrics of their texts' embeddings.

The rows have the columns that sentence-transformers and MTEB use, and each but a training row is a
document:

    sts             {"sentence1": "...", "sentence2": "...", "score": 3.5}
    retrieval       {"query": "...", "positive": ["...", "..."], "negative": ["...", "..."]}
    classification  {"text": "...", "label": "..."}; with "train": true the probe learns from it

See also `rows.py`. Texts are encoded and compared by a SentenceTransformer around the model.
"""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal, TypeAlias, cast

import numpy as np
from torch import Tensor

from evomerge.config.objectives import ROWS
from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluation.inference.rows import batching
from evomerge.evaluation.tasks.objective import Documents, Measured
from evomerge.evaluation.tasks.rows import ANSWER, VALUES, BatchSize, Columns, Row, RowsObjective
from evomerge.models.modules import STACK, ModuleStack
from evomerge.scores import Split

Way: TypeAlias = Literal["encode", "encode_query", "encode_document"]
"""A method of SentenceTransformer: prompts differ for queries and documents."""

Encode: TypeAlias = Callable[[Sequence[str], Way], Tensor]
"""Returns the embeddings of texts, one in each row."""

_SETTINGS = ("max_seq_length", "do_lower_case")
_ROWS = 32  # of a batch at least, sentence-transformers' own default
_FIRST = 10  # passages that the metrics of rankings look at
_DIGITS = 6  # decimals of similarities; further ones depend on a passage's place and batch


def library_of(model: Any, tokenizer: Any) -> Any:
    """Return a SentenceTransformer of a model in memory with modules, and of this tokenizer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

    class Resident(Transformer):
        def _load_model(self, *args: Any, **options: Any) -> Any:
            return model.get_encoder() if model.config.is_encoder_decoder else model.base_model

    stack: ModuleStack = getattr(model, STACK)
    first, similarity = stack.modules[0].settings, cast(Any, stack.similarity)
    with TemporaryDirectory() as folder:  # it reads tokenizers from files only
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Resident(folder, **{key: first[key] for key in _SETTINGS if key in first})
    return SentenceTransformer(
        modules=[transformer, *(getattr(model, name) for name in stack.folders)],
        device=str(model.device),
        prompts=stack.prompts,
        default_prompt_name=stack.settings.get("default_prompt_name"),
        similarity_fn_name=similarity,
        truncate_dim=stack.settings.get("truncate_dim"),
    )


def encoded(
    library: Any, texts: Sequence[str], way: Way = "encode", batch_size: BatchSize = "auto"
) -> Tensor:
    """Return the embeddings of texts: a float64 matrix on the CPU with one row for each.

    Equal texts are encoded once.

    Raises:
        CandidateError: a number of an embedding is not finite.
    """
    if batch_size == "auto":
        tokens = batching(library.transformers_model, batch_size).tokens
        batch_size = max(_ROWS, int(tokens // library.max_seq_length))
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    options = {"convert_to_tensor": True, "show_progress_bar": False}
    matrix = getattr(library, way)(list(rows), batch_size=batch_size, **options)
    embeddings: Tensor = matrix.double().cpu()
    if not embeddings.isfinite().all():
        raise CandidateError("The model's embeddings are not finite numbers.")
    return embeddings[[rows[text] for text in texts]]


class EncoderObjective(RowsObjective):
    """A kind of objective of sentence encoders."""

    is_foreign, is_divisible, needs_modules, uses_templates = False, False, True, False
    packages = ("sentence-transformers", "scikit-learn")
    imports = ("sentence_transformers.sentence_transformer.modules",)

    _library: Any = None
    _made_for: tuple[Any, Any] | None = None

    def release(self, *, engine: bool = False) -> None:
        """Drop the references to the model that was measured last."""
        self._library = self._made_for = None

    def measure(self, model: Any, tokenizer: Any, documents: Sequence[int]) -> Measured:
        """Return what a model has on documents.

        Raises:
            CandidateError: an embedding is not finite.
        """
        if self._made_for != (model, tokenizer):
            self._library, self._made_for = library_of(model, tokenizer), (model, tokenizer)
        encode = partial(encoded, self._library, batch_size=self.batch_size)
        measured = dict(self._measured([self.rows[i] for i in documents], encode))
        self.answers.update(zip(documents, measured.pop(ANSWER), strict=True))
        return measured

    @abstractmethod
    def _measured(self, rows: Sequence[Row], encode: Encode) -> Measured:
        """Return what a model has on rows, by their texts' embeddings, and its `ANSWER`."""


def passages(value: Any, where: str) -> list[str]:
    """Return the different texts of a column that has a text or a list of texts.

    Raises:
        ConfigError: a value is no text; the sentence begins with `where`.
    """
    texts = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(VALUES.text(text, where) for text in texts))


def ranking_metrics(
    scores: Sequence[float] | np.ndarray, is_right: Sequence[bool] | np.ndarray
) -> tuple[int, dict[str, float]]:
    """Return which passage a query ranks first, and how high it ranks the right ones.

    Of passages with equal scores the wrong ones rank first, whatever their order in the file.

    Args:
        scores: of each passage; the largest ranks first. Decimals after the sixth do not count.
        is_right: whether each passage is right; at least one is.

    Returns:
        The place of the passage in `scores`, and nDCG, recall and the reciprocal rank among the
        first ten, as sentence-transformers' evaluators define them.
    """
    right = np.asarray(is_right, float)
    first = np.lexsort((right, -np.asarray(scores).round(_DIGITS)))[:_FIRST]
    hits, count = right[first], int(right.sum())
    gains = 1 / np.log2(np.arange(2, _FIRST + 2))
    return int(first[0]), {
        "ndcg@10": float(hits @ gains[: len(hits)] / gains[:count].sum()),
        "recall@10": float(hits.sum()) / count,
        "mrr@10": 1 / (1 + float(np.argmax(hits))) if hits.any() else 0.0,
    }


class Sts(EncoderObjective):
    """How well similarities of two sentences agree with scores: correlations over all documents."""

    metrics, compared = ROWS["sts"].metrics, ("sentence1", "sentence2")
    needed = (*compared, "score")
    columns: ClassVar[Columns] = {**dict.fromkeys(compared, VALUES.text), "score": VALUES.real}
    row_text = '{"sentence1": "...", "sentence2": "...", "score": 3.5}'
    of_all = metrics

    def check_documents(self, documents: Documents, split: Split) -> None:
        """Check that some pairs have other scores than the rest, which correlations need."""
        ids = documents[self.name]
        if len({self.rows[i]["score"] for i in ids}) < 2:
            raise ConfigError(
                f"evaluation.{split}: the documents of {self.name!r} ({len(ids)}) have one score, "
                f"{self.rows[ids[0]]['score']:g}, and a correlation needs two that differ; set "
                f"`evaluation.{split}.documents` to more, or give other rows."
            )

    def _measured(self, rows: Sequence[Row], encode: Encode) -> Measured:
        texts = [row[key] for key in self.compared for row in rows]
        similar = self._library.similarity_pairwise(*encode(texts, "encode").chunk(2))
        scores = [row["score"] for row in rows]
        pairs = tuple(zip(similar.numpy().round(_DIGITS).tolist(), scores, strict=True))
        answers = [(f"{item:.4g}", f"{score:g}") for item, score in pairs]
        return {**dict.fromkeys(self.metrics, pairs), ANSWER: answers}

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """Return the correlation of pairs; nan if all similarities, or all scores, are equal."""
        from scipy import stats

        correlation = stats.spearmanr if metric == "spearman" else stats.pearsonr
        with warnings.catch_warnings(action="ignore"):  # of equal numbers
            return float(correlation(*zip(*values, strict=True)).statistic)


class Retrieval(EncoderObjective):
    """How high queries rank their passages among all passages of the file.

    Of equally similar passages the wrong ones rank first, whatever the order of the file.
    """

    metrics, needed = ROWS["retrieval"].metrics, ("query", "positive")
    columns: ClassVar[Columns] = {
        "query": VALUES.text,
        "positive": lambda value, where: VALUES.items(passages(value, where), where, least=1),
        "negative": lambda value, where: passages(value or [], where),
    }
    row_text = '{"query": "...", "positive": ["..."], "negative": ["..."]}, the last if wanted'
    compared = ("query",)

    @cached_property
    def _passages(self) -> Mapping[str, int]:
        """The column of each passage of the file."""
        passages = (t for row in self.rows for t in (*row["positive"], *row.get("negative", ())))
        return {text: place for place, text in enumerate(dict.fromkeys(passages))}

    def _measured(self, rows: Sequence[Row], encode: Encode) -> Measured:
        queries = encode([row["query"] for row in rows], "encode_query")
        texts = list(self._passages)
        scores = self._library.similarity(queries, encode(texts, "encode_document"))
        values: dict[str, list[Any]] = {metric: [] for metric in (*self.metrics, ANSWER)}
        for row, similar in zip(rows, scores.numpy(), strict=True):
            right = np.zeros(len(similar), bool)
            right[[self._passages[text] for text in row["positive"]]] = True
            first, metrics = ranking_metrics(similar, right)
            for metric, value in metrics.items():
                values[metric].append(value)
            values[ANSWER].append((texts[first], "\n".join(row["positive"])))
        return values


class Classification(EncoderObjective):
    """Whether a linear probe, which learns from the training rows, finds the label of a text."""

    metrics, needed = ROWS["classification"].metrics, ("text", "label")
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

    def _measured(self, rows: Sequence[Row], encode: Encode) -> Measured:
        from sklearn.linear_model import LogisticRegression

        texts, known = [row["text"] for row in (*self._train, *rows)], len(self._train)
        embeddings = encode(texts, "encode").numpy()
        probe = LogisticRegression(max_iter=1000)
        with warnings.catch_warnings(action="ignore"):  # it may not have converged
            probe.fit(embeddings[:known], [row["label"] for row in self._train])
        found = zip(map(str, probe.predict(embeddings[known:])), rows, strict=True)
        answers = [(answer, row["label"]) for answer, row in found]
        return {"accuracy": [float(one == right) for one, right in answers], ANSWER: answers}
