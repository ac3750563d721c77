"""What a card says in the Hub's own terms, and which search file it shows: all without paths."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from evomerge.config.schema import Frozen, SearchConfig
from evomerge.export.parents import Parent, common_languages, common_licence
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import RUN
from evomerge.parsing.values import replaced
from evomerge.run.history import History
from evomerge.scores import SPLITS, Objective, Scores

SENTENCES = "sentence-similarity"
"""The Hub's name of the task of sentence encoders, which sentence-transformers loads."""

SPEECH = "automatic-speech-recognition"
"""The Hub's name of the task of models that write down what is said."""

_TAGS = {
    r"(?<!LMHead)(?<!DoubleHeads)Model$": "feature-extraction",  # an encoder without a head
    r"ForMaskedLM$": "fill-mask",
    r"ForSequenceClassification$": "text-classification",
    r"ForTokenClassification$": "token-classification",
    r"ForQuestionAnswering$": "question-answering",
    r"^(Whisper|Moonshine|Speech)\w*For(ConditionalGeneration|SpeechToText)$": SPEECH,
}
"""How the class of a model ends -> what the Hub calls its task, if it does not generate text."""

_SENSES = {"vision_config": "image-text-to-text", "audio_config": "audio-text-to-text"}
"""Section in the config of a model that writes texts about images or sounds -> the same."""

_PATH = re.compile(r"(?<![\w.~/-])(~|\.{1,2})?(/[^\s/:+,;='\"()\[\]{}]+)+/?")
"""A path that begins in the root, the home folder or this one; no address of the web."""


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


def card_data(
    name: str,
    task: str,
    parents: Collection[Parent],
    *,
    mergekit: bool,
    datasets: Sequence[str] = (),
    results: Sequence[EvalResult] = (),
) -> ModelCardData:
    """Return the metadata of a merge. What is not known is left out.

    The licence and the languages are those of the parents if all of them agree.

    Args:
        task: see `task_of`.
    """
    models = list(dict.fromkeys(parent.hub_id for parent in parents if parent.hub_id))
    licence, languages = common_licence(parents), list(common_languages(parents))
    return ModelCardData(
        base_model=models or None,
        base_model_relation="merge" if models else None,
        datasets=list(datasets) or None,
        eval_results=list(results) or None,
        language=languages or None,
        library_name="sentence-transformers" if task == SENTENCES else "transformers",
        license=licence.key if licence else None,
        license_name=licence.name if licence else None,
        license_link=licence.link if licence else None,
        model_name=name if results else None,
        pipeline_tag=task,
        tags=["merge", "evomerge", *(["mergekit"] if mergekit else [])],
    )


def hub_datasets(config: SearchConfig) -> list[str]:
    """Return the ids of the data sets on the Hub that a run's documents came from."""
    known = (config.frozen or Frozen()).datasets
    items = (item for split in SPLITS for item in known.get(split, {}).values())
    return list(dict.fromkeys(item.id for item in items))


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
        _, has_split, split = frozen.sources.get("test", {}).get(task, "").rpartition(":")
        split = split if has_split else "test"
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


def search_file(config: SearchConfig, history: History, names: Mapping[str, str]) -> list[str]:
    """Return the lines of the search file, without defaults and without paths of this machine.

    The section `executor` is left out: it does not change the result. The budget is the one of the
    last `resume`. `names`: reference of a parent -> its published name.
    """
    budget = config.budget.model_copy(update=history.budget)
    used = config.model_copy(update={"budget": budget})
    plain = used.model_dump(mode="json", exclude={"executor"}, exclude_defaults=True)

    def published(value: Any) -> Any:
        is_text = isinstance(value, str)
        return names.get(value) or _without_folders(value) if is_text else value

    plain = replaced(plain, published, published)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=98)
    return text.strip().splitlines()


def _without_folders(text: str) -> str:
    """Return a text in which paths are cut to their last part, wherever they stand in it."""
    rest = text.removeprefix(RUN)
    if rest.startswith(("/", "~", "./", "../")):  # one path, perhaps with spaces
        kind = text[: -len(rest)]
        return kind + "+".join(PurePath(part).name for part in rest.split("+"))
    return _PATH.sub(lambda found: PurePath(found[0]).name, text)
