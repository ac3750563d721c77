"""What a card says in the Hub's own terms."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from huggingface_hub import EvalResult

from evomerge.config.schema import Frozen, SearchConfig
from evomerge.models.checkpoint import Checkpoint
from evomerge.scores import Objective, Scores

SENTENCES = "sentence-similarity"
"""The Hub's name of the task of sentence encoders, which sentence-transformers loads."""

_TAGS = {
    r"(?<!LMHead)(?<!DoubleHeads)Model$": "feature-extraction",  # an encoder without a head
    r"ForMaskedLM$": "fill-mask",
    r"ForSequenceClassification$": "text-classification",
    r"ForTokenClassification$": "token-classification",
    r"ForQuestionAnswering$": "question-answering",
    r"^(Whisper|Moonshine|Speech)\w*For(ConditionalGeneration|SpeechToText)$": (
        "automatic-speech-recognition"
    ),
}
"""How the class of a model ends -> what the Hub calls its task, if it does not generate text."""

_SENSES = {"vision_config": "image-text-to-text", "audio_config": "audio-text-to-text"}
"""Section in the config of a model that writes texts about images or sounds -> the same."""


def task_of(host: Checkpoint) -> str:
    """Return the Hub's name of the task (`pipeline_tag`) of the merges of a host."""
    if host.modules is not None and host.modules.obstacle() is None:
        return SENTENCES
    given = host.config.get("architectures")
    name = str(given[0]) if isinstance(given, list) and given else ""
    if name.endswith("ForConditionalGeneration"):
        for section, task in _SENSES.items():
            if section in host.config:
                return task
    return next((tag for end, tag in _TAGS.items() if re.search(end, name)), "text-generation")


def results_on_test(
    config: SearchConfig, task_type: str, objectives: Sequence[Objective], scores: Scores
) -> list[EvalResult]:
    """Return the scores on test documents as the Hub's `model-index`; finite ones only."""
    frozen, results = config.frozen or Frozen(), []
    for objective in objectives:
        task, value = objective.task, scores.aggregates[objective.key]
        if objective.is_exact or not math.isfinite(value):
            continue
        dataset = frozen.datasets.get("test", {}).get(task)
        # The split of the task, unless the name that the split has in the data set is known.
        source = frozen.sources.get("test", {}).get(task, ":test")
        split = source.rpartition(":")[2] if ":" in source else "test"
        documents = scores.fidelity.get(task)
        count = f" on {documents} test documents" if documents else " on test documents"
        results.append(
            EvalResult(
                task_type=task_type,
                task_name=task,
                dataset_type=dataset.id if dataset else task,
                dataset_name=task,
                dataset_config=dataset.config if dataset else None,
                dataset_split=dataset.split if dataset and dataset.split else split,
                metric_type=objective.metric.partition(",")[0],
                metric_name=f"{task} {objective.metric}{count}",
                metric_value=value,
            )
        )
    return results
