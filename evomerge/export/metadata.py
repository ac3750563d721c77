"""The metadata at the beginning of a model card, by which the Hub lists and finds a model."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from huggingface_hub import EvalResult, ModelCardData

from evomerge.config.schema import SearchConfig
from evomerge.export.parents import Parent, common_languages, common_licence
from evomerge.scores import SPLITS, Objective, Scores

_TASK = "text-generation"


def card_data(
    name: str,
    parents: Collection[Parent],
    *,
    mergekit: bool,
    datasets: Sequence[str] = (),
    results: Sequence[EvalResult] = (),
) -> ModelCardData:
    """Return the metadata of a merge. What is not known is left out.

    Args:
        name: name of the merged model.
        parents: its parents; the licence and the languages are theirs if all of them agree.
        mergekit: whether a mergekit config is written beside the card.
        datasets: ids of data sets on the Hub that candidates were compared on.
        results: scores on test documents.
    """
    models = list(dict.fromkeys(name for parent in parents for name in parent.hub_ids))
    licence, languages = common_licence(parents), list(common_languages(parents))
    return ModelCardData(
        base_model=models or None,
        base_model_relation="merge" if models else None,
        datasets=list(datasets) or None,
        eval_results=list(results) or None,
        language=languages or None,
        library_name="transformers",
        license=licence.key if licence else None,
        license_name=licence.name if licence else None,
        license_link=licence.link if licence else None,
        model_name=name if results else None,
        pipeline_tag=_TASK,
        tags=["merge", "evomerge", *(["mergekit"] if mergekit else [])],
    )


def hub_datasets(config: SearchConfig) -> list[str]:
    """Return the ids of the data sets on the Hub that a run's documents came from."""
    known = config.frozen.datasets if config.frozen else {}
    items = (item for split in SPLITS for item in known.get(split, {}).values())
    return list(dict.fromkeys(item.id for item in items))


def results_on_test(
    config: SearchConfig, objectives: Sequence[Objective], scores: Scores
) -> list[EvalResult]:
    """Return the scores on test documents as entries of the Hub's `model-index`.

    A score that is not finite is left out, since JSON has no number for it.

    Args:
        config: the run's search file.
        objectives: its objectives.
        scores: the scores of a model on the test documents.
    """
    return [
        _result(config, objective, scores)
        for objective in objectives
        if not objective.is_exact
        if math.isfinite(scores.aggregates[objective.key])
    ]


def _result(config: SearchConfig, objective: Objective, scores: Scores) -> EvalResult:
    known = config.frozen.datasets.get("test", {}) if config.frozen else {}
    sources = config.frozen.sources.get("test", {}) if config.frozen else {}
    dataset = known.get(objective.task)
    # The split of the task, unless the name that the split has in the data set is known.
    split = sources.get(objective.task, "").rpartition(":")[2] or "test"
    documents = scores.fidelity.get(objective.task)
    count = f" on {documents} test documents" if documents else " on test documents"
    return EvalResult(
        task_type=_TASK,
        task_name=objective.task,
        dataset_type=dataset.id if dataset else objective.task,
        dataset_name=objective.task,
        dataset_config=dataset.config if dataset else None,
        dataset_split=dataset.split if dataset and dataset.split else split,
        metric_type=objective.metric.partition(",")[0],
        metric_name=f"{objective.task} {objective.metric}{count}",
        metric_value=scores.aggregates[objective.key],
    )
