"""How well a cross-encoder puts the passages of a query in order.

A cross-encoder is a classifier with one output, which reads a query and a passage together. Each
row is a document, with the columns of sentence-transformers' `CrossEncoderRerankingEvaluator`:

    {"query": "...", "positive": ["..."], "negative": ["...", "..."]}

Passages are ordered by the logit. sentence-transformers orders them by its sigmoid, which is the
same order, unless float32 rounds the sigmoids of two very large logits to one number.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from evomerge.config.objectives import ROWS
from evomerge.errors import CheckpointError
from evomerge.evaluation.tasks.classifiers import ClassifierObjective, Input
from evomerge.evaluation.tasks.encoders import passages, ranking_metrics
from evomerge.evaluation.tasks.objective import Merges
from evomerge.evaluation.tasks.rows import ANSWER, VALUES, Columns, Row
from evomerge.models.modules import SETTINGS


class Rerank(ClassifierObjective):
    """How high a cross-encoder ranks the right passages among those of the query's row."""

    metrics, needed = ROWS["rerank"].metrics, ("query", "positive", "negative")
    is_reward = True
    columns: ClassVar[Columns] = {
        "query": VALUES.text,
        **dict.fromkeys(
            ("positive", "negative"),
            lambda value, where: VALUES.items(passages(value, where), where, least=1),
        ),
    }
    row_text = '{"query": "...", "positive": ["..."], "negative": ["...", "..."]}'
    compared = ("query",)

    def check(self, merges: Merges) -> None:
        """Check that models are cross-encoders that read a query and a passage as they are.

        CheckpointError: the host has no head with one output, writes a prompt before the texts, or
        reads them by a module of sentence-transformers.
        """
        super().check(merges)
        if (stack := merges.host.modules) is None:
            return
        prompt = stack.settings.get("default_prompt_name")
        if prompt is not None or len(stack.modules) > 1:
            more = f"the default prompt {prompt!r}" if prompt is not None else "further modules"
            raise CheckpointError(
                f"Parent {merges.host.reference!r} has {more} ({SETTINGS}, modules.json), but "
                f"{self.task.name} needs a cross-encoder that reads a query and a passage as they "
                "are; name such a host with `space.host`."
            )

    def _inputs(self, row: Row, tokenizer: Any) -> Sequence[Input]:
        texts = dict.fromkeys((*row["positive"], *row["negative"]))
        return [(row["query"], text) for text in texts]

    def _measured(
        self, row: Row, logits: Sequence[Tensor], names: Mapping[int, str]
    ) -> dict[str, Any]:
        texts = list(dict.fromkeys((*row["positive"], *row["negative"])))
        is_right = [text in row["positive"] for text in texts]
        first, metrics = ranking_metrics([float(logit) for logit in logits], is_right)
        answer = texts[first], "\n".join(row["positive"])
        return {**{metric: metrics[metric] for metric in self.metrics}, ANSWER: answer}
