"""What sentence encoders are scored on: rows of a file, and metrics of their texts' embeddings.

The rows have the columns that sentence-transformers and MTEB use, and each but a training row is a
document:

    sts             {"sentence1": "...", "sentence2": "...", "score": 3.5}
    retrieval       {"query": "...", "positive": ["...", "..."], "negative": ["...", "..."]}
    classification  {"text": "...", "label": "..."}; with "train": true the probe learns from it

See also `rows.py`.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluation.inference.encoding import Role, TextEncoder, stack_of
from evomerge.evaluation.tasks.rows import VALUES, BatchSize, Row, RowsObjective, text_or_number
from evomerge.scores import ENCODER_METRICS

Encode: TypeAlias = Callable[[Sequence[str], Role], Tensor]
"""Returns the embeddings of texts, one in each row."""

Floats: TypeAlias = NDArray[np.float64]

Similarity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Returns how similar each row of one matrix is to each row of another."""

_SIMILARITIES: Mapping[str, Similarity] = {
    "cosine": lambda one, other: normalize(one) @ normalize(other).T,
    "dot": lambda one, other: one @ other.T,
    "euclidean": lambda one, other: -torch.cdist(one, other, compute_mode=_EXACT),
    "manhattan": lambda one, other: -torch.cdist(one, other, p=1.0),
}
"""Those that a model can name in its config, with sentence-transformers' names."""

_EXACT = "donot_use_mm_for_euclid_dist"
_FIRST = 10  # passages that the metrics of retrieval look at
_SAME = 1e-6  # difference of embeddings, as a share of their largest number: that of batches
_DIGITS = 9  # decimals of similarities; the last bits of a product depend on a passage's place
_ITERATIONS = 1000  # of the probe, at most


class EncoderObjective(RowsObjective):
    """A kind of objective of sentence encoders."""

    model = "encoder"

    def __init__(self, name: str, rows: Sequence[Row], digest: str, batch_size: BatchSize) -> None:
        super().__init__(name, rows, digest, ENCODER_METRICS[self.kind])
        self._encoder = TextEncoder(batch_size)

    def __call__(
        self, model: Any, tokenizer: Any, documents: Sequence[int]
    ) -> dict[str, tuple[Any, ...]]:
        """Return metric -> one value for each document, of which `aggregate` makes the score.

        Raises:
            CandidateError: an embedding is not finite, or all texts have the same.
            CheckpointError: the model has no modules.
        """

        def encode(texts: Sequence[str], role: Role) -> Tensor:
            found = self._encoder(model, tokenizer, texts, role)
            count, width = len(set(texts)), float((found - found[0]).abs().max())
            if role != "query" and count > 1 and width <= _SAME * float(found.abs().max()):
                raise CandidateError(
                    f"The model has collapsed: it gives all {count} different texts of "
                    f"{self.info.name!r} the same embedding, so its scores would mean nothing."
                )
            return found

        similarity = _SIMILARITIES[stack_of(model).similarity]
        return self._measured([self.rows[i] for i in documents], encode, similarity)

    @abstractmethod
    def _measured(
        self, rows: Sequence[Row], encode: Encode, similarity: Similarity
    ) -> dict[str, tuple[Any, ...]]: ...


class Sts(EncoderObjective):
    """How well similarities of two sentences agree with scores: correlations over all documents."""

    kind, needed = "sts", ("sentence1", "sentence2", "score")
    row_text = '{"sentence1": "...", "sentence2": "...", "score": 3.5}'
    compared = ("sentence1", "sentence2")

    def is_mean(self, metric: str) -> bool:
        """Return false: a correlation is one of all documents together."""
        return False

    @staticmethod
    def checked(row: Row, where: str) -> Row:
        """Return a row with two texts and a finite number."""
        found = {key: VALUES.text(row[key], f"{where}: {key}") for key in Sts.compared}
        return {**found, "score": VALUES.real(row["score"], f"{where}: score")}

    def _measured(
        self, rows: Sequence[Row], encode: Encode, similarity: Similarity
    ) -> dict[str, tuple[Any, ...]]:
        texts = [row[key] for key in ("sentence1", "sentence2") for row in rows]
        one, other = encode(texts, "text").chunk(2)
        found = [float(similarity(a[None], b[None])) for a, b in zip(one, other, strict=True)]
        pairs = tuple((value, row["score"]) for value, row in zip(found, rows, strict=True))
        return dict.fromkeys(self.info.metrics, pairs)

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """Return the correlation of pairs; nan if all similarities, or all scores, are equal."""
        from scipy.stats import rankdata

        found = np.asarray(values, dtype=np.float64).T
        found = rankdata(found, axis=1) if metric == "spearman" else found
        one, other = found - found.mean(axis=1, keepdims=True)
        size = float(np.sqrt((one @ one) * (other @ other)))
        return float(one @ other) / size if size else float("nan")


class Retrieval(EncoderObjective):
    """How high queries rank their passages among all passages of the file.

    Of equally similar passages the wrong ones rank first, whatever the order of the file.
    """

    kind, needed = "retrieval", ("query", "positive")
    row_text = '{"query": "...", "positive": ["..."], "negative": ["..."]}, the last if wanted'
    compared = ("query",)

    def __init__(self, name: str, rows: Sequence[Row], digest: str, batch_size: BatchSize) -> None:
        super().__init__(name, rows, digest, batch_size)
        passages = (text for row in rows for text in (*row["positive"], *row["negative"]))
        self._passages = {text: place for place, text in enumerate(dict.fromkeys(passages))}

    @staticmethod
    def checked(row: Row, where: str) -> Row:
        """Return a row with a query and passages, at least one of which is right."""

        def passages(key: str) -> list[str]:
            given = row.get(key) or []
            listed = given if isinstance(given, list) else [given]
            return list(dict.fromkeys(VALUES.text(text, f"{where}: {key}") for text in listed))

        query, positive = VALUES.text(row["query"], f"{where}: query"), passages("positive")
        VALUES.items(positive, f"{where}: positive", least=1)
        return {"query": query, "positive": positive, "negative": passages("negative")}

    def _measured(
        self, rows: Sequence[Row], encode: Encode, similarity: Similarity
    ) -> dict[str, tuple[Any, ...]]:
        queries = encode([row["query"] for row in rows], "query")
        scores = similarity(queries, encode(list(self._passages), "document"))
        gains = 1 / np.log2(np.arange(2, _FIRST + 2))
        found: dict[str, list[float]] = {metric: [] for metric in self.info.metrics}
        for row, similar in zip(rows, scores.numpy().round(_DIGITS), strict=True):
            right = np.zeros(len(similar))
            right[[self._passages[text] for text in row["positive"]]] = 1
            hits = right[np.lexsort((right, -similar))[:_FIRST]]
            count = int(right.sum())
            found["ndcg@10"].append(float(hits @ gains[: len(hits)] / gains[:count].sum()))
            found["recall@10"].append(float(hits.sum()) / count)
            found["mrr@10"].append(1 / (1 + float(np.argmax(hits))) if hits.any() else 0.0)
        return {metric: tuple(values) for metric, values in found.items()}


class Classification(EncoderObjective):
    """Whether a linear probe, which learns from the training rows, finds the label of a text."""

    kind, needed = "classification", ("text", "label")
    row_text = '{"text": "...", "label": "...", "train": true}, the last where the probe learns'
    compared = ("text",)

    def __init__(self, name: str, rows: Sequence[Row], digest: str, batch_size: BatchSize) -> None:
        self._train = [row for row in rows if row["train"]]
        super().__init__(name, [row for row in rows if not row["train"]], digest, batch_size)
        labels = {row["label"] for row in self._train}
        if len(labels) < 2:
            raise ConfigError(
                f"objectives: {name} has {len(self._train)} rows with `train`: true and "
                f"{len(labels)} labels in them; the probe needs rows of two labels or more to "
                "learn from, so add `train`: true to some rows of each label."
            )

    @staticmethod
    def checked(row: Row, where: str) -> Row:
        """Return a row with a text and a label."""
        label = text_or_number(row["label"], f"{where}: label")
        train = VALUES.flag(row.get("train", False), f"{where}: train")
        return {
            "text": VALUES.text(row["text"], f"{where}: text"),
            "label": str(label),
            "train": train,
        }

    def _measured(
        self, rows: Sequence[Row], encode: Encode, similarity: Similarity
    ) -> dict[str, tuple[Any, ...]]:
        every = [*self._train, *rows]
        embeddings, known = encode([row["text"] for row in every], "text").numpy(), len(self._train)
        labels = [row["label"] for row in self._train]
        from sklearn.linear_model import LogisticRegression

        probe = LogisticRegression(max_iter=_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it may not have converged
            probe.fit(embeddings[:known], labels)
        answers = probe.predict(embeddings[known:])
        right = zip(answers, (row["label"] for row in rows), strict=True)
        return {"accuracy": tuple(float(answer == label) for answer, label in right)}


KINDS: tuple[type[EncoderObjective], ...] = (Sts, Retrieval, Classification)
