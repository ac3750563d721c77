"""Converting a mergenetic config to a search file.

A config of mergenetic does not name the merge method; the script that reads it does. This module
follows the scripts in mergenetic's folder `experiments` (version 0.1.1): with one language they
merge `base_model` and the model of that language by slerp, with several by dare_ties.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from evomerge.errors import RecipeError
from evomerge.mergekit.convert.draft import VALUES, Draft
from evomerge.parsing.values import shown

_DTYPES = ("bfloat16", "float16", "float32")
_POPULATION = 4  # the smallest that `evomerge.optimize.create` takes
_CSV_METRIC = "exact_match"  # mergenetic's own evaluators compare a generated answer with a column

_CONVERTED = (
    "base_model", "models", "langs", "pop_size", "n_iter", "seed", "dtype", "tasks", "metric",
    "datasets", "n_samples", "mode", "device", "eval_batch_size", "additional_templates_folder",
)  # fmt: skip

_DROPPED = (
    "run_id", "path_to_store_config", "path_to_store_merged_model", "bench", "task_type",
    "force_evaluation", "load_in_4bit", "eager_mode",
)  # fmt: skip
"""Keys without a counterpart; docs/from-mergenetic.md says why."""


def from_mergenetic(data: Mapping[str, Any]) -> Draft:
    """Return the draft of a search file for a mergenetic config; RecipeError: it is wrong."""
    VALUES.mapping(data, "the mergenetic config", (*_CONVERTED, *_DROPPED))
    draft = Draft("mergenetic")
    population, generations = (
        VALUES.whole(data.get(key), key, least=1) for key in ("pop_size", "n_iter")
    )
    langs = _texts(data.get("langs"), "langs")
    base = VALUES.text(data.get("base_model"), "base_model", "a model")
    models = _models(data.get("models"), langs, draft)
    if models == [base]:
        raise RecipeError("`models` names only `base_model`, so there is nothing to merge.")
    draft.search["seed"] = VALUES.whole(data.get("seed", 420), "seed")
    if len(models) == 1:
        draft.search["parents"] = [base, *models]
    else:
        draft.search |= {"parents": models, "base": base}
    draft.search["dtype"] = data.get("dtype", "bfloat16")
    if draft.search["dtype"] not in _DTYPES:
        raise VALUES.wrong(data["dtype"], "dtype", " or ".join(_DTYPES))
    space = _space(models, draft)
    draft.search |= {"space": space, "optimizer": _optimizer(population, draft)}
    _add_objectives(data, langs, draft)
    draft.search["evaluation"] = _evaluation(data, langs, draft)
    draft.search["budget"] = {"candidates": population * generations}
    draft.notes += [
        f"`{key}` is dropped: docs/from-mergenetic.md says what is used instead."
        for key in _DROPPED
        if data.get(key) is not None
    ]
    draft.checks.append("budget.candidates: pop_size x n_iter.")
    return draft


def _texts(value: Any, where: str) -> list[str]:
    """Return a list of texts; None is the empty list."""
    listed = VALUES.items([] if value is None else value, where)
    return [VALUES.text(item, f"{where}[{i}]") for i, item in enumerate(listed)]


def _models(value: Any, langs: list[str], draft: Draft) -> list[str]:
    """Return the models that mergenetic's scripts merge with or into the base."""
    if not isinstance(value, Mapping):
        models = _texts(value, "models")
    else:
        named = {
            key: VALUES.text(item, f"models.{key}", "a model")
            for key, item in VALUES.mapping(value, "models").items()
        }
        used = [key for key in named if not langs or key in langs]
        draft.notes += [
            f"`models.{key}` is dropped: `langs` does not name {key}."
            for key in named
            if key not in used
        ]
        models = [named[key] for key in used]
    if not models:
        raise RecipeError("`models` names no model, or none of a language in `langs`.")
    return list(dict.fromkeys(models))


def _space(models: list[str], draft: Draft) -> dict[str, Any]:
    """Return the space of mergenetic's scripts, for one language or for several."""
    common = {"kind": "parameters", "embeddings": False}
    if len(models) == 1:
        draft.checks.append(
            "space.method: slerp, as in mergenetic's script for one language (the config names "
            "none), with t at 5 depths; there, tensors outside of attention and mlp have one t."
        )
        components = ["attention", "mlp"]
        slerp = {"method": "slerp", "groups": 5, "components": components, "smooth": True}
        return {**common, **slerp, "knobs": {"t": [0.0, 1.0]}}
    draft.checks += [
        "space.method: dare_ties, as in mergenetic's scripts for several languages (the config "
        "names none).",
        "objectives: their weighted sum is maximised; mergenetic's NSGA-II looks for a Pareto "
        "front.",
    ]
    knobs = {"weight": [0.0, 1.0], "density": [0.0, 1.0]}
    return {**common, "method": "dare_ties", "groups": "one", "knobs": knobs}


def _optimizer(population: int, draft: Draft) -> dict[str, Any]:
    draft.checks.append(
        "optimizer: CMA-ES in place of GA or NSGA-II; `evomerge list optimizers` has others."
    )
    if population >= _POPULATION:
        return {"name": "cma", "population": population}
    draft.notes.append(
        f"`pop_size` is {population}, and CMA-ES needs a population of {_POPULATION} or more; "
        "here it chooses the population itself."
    )
    return {"name": "cma"}


def _add_objectives(data: Mapping[str, Any], langs: list[str], draft: Draft) -> None:
    """Add the objectives for the tasks or, if there are none, for the datasets of a config."""
    tasks = data.get("tasks")
    if tasks is None:
        _add_datasets(data, langs, draft)
        return
    metric = VALUES.text(data.get("metric") or "acc", "metric", "the name of a metric")
    if isinstance(tasks, Mapping):
        tasks = list(_by_language(tasks, "search", langs).values())
    for task in _texts(tasks, "tasks"):
        draft.add_objective(task, metric)
    if "objectives" not in draft.search:
        raise RecipeError("`tasks` names no task, or none of a language in `langs`.")
    if data.get("datasets") is not None:
        draft.notes.append(
            "`datasets` is dropped: mergenetic's lm-eval scripts score `tasks`, and read only the "
            "languages of `datasets`."
        )


def _by_language(tasks: Mapping[str, Any], split: str, langs: list[str]) -> dict[str, str]:
    """Return language -> task for `search` or `test`.

    The entry `base` is left out: mergenetic scores the base model alone on it.
    """
    VALUES.mapping(tasks, "tasks", ("search", "test"))
    found = VALUES.mapping(tasks.get(split) or {}, f"tasks.{split}")
    return {
        key: VALUES.text(value, f"tasks.{split}.{key}", "the name of a task")
        for key, value in found.items()
        if (key in langs if langs else key != "base")
    }


def _add_datasets(data: Mapping[str, Any], langs: list[str], draft: Draft) -> None:
    """Add an objective for each CSV file: the lm-eval task that still has to be written for it."""
    if data.get("datasets") is None:
        raise RecipeError("`tasks` and `datasets` are missing; one of them says what is scored.")
    for key, value in VALUES.mapping(data["datasets"], "datasets").items():
        file = VALUES.text(value, f"datasets.{key}", "a CSV file")
        if key not in langs if langs else key == "base":
            continue
        task = PurePath(file).stem
        draft.add_objective(task, _CSV_METRIC)
        draft.unknown(
            f"objectives: write an lm-eval task {task} for {file}; docs/from-mergenetic.md has an "
            "example."
        )
    if "objectives" not in draft.search:
        raise RecipeError(f"`datasets` has no file of a language in `langs`, {shown(langs)}.")


def _evaluation(data: Mapping[str, Any], langs: list[str], draft: Draft) -> dict[str, Any]:
    folder = data.get("additional_templates_folder")
    include = [VALUES.text(folder, "additional_templates_folder", "a folder")] if folder else []
    samples = VALUES.whole(data.get("n_samples", 20), "n_samples", least=1)
    evaluation: dict[str, Any] = {"include": include, "search": {"documents": samples}}
    if isinstance(data.get("tasks"), Mapping):
        search = _by_language(data["tasks"], "search", langs)
        test = _by_language(data["tasks"], "test", langs)
        other = {search[k]: test[k] for k in search if test.get(k, search[k]) != search[k]}
        if other:
            evaluation["test"] = {"tasks": other}
    if data.get("eval_batch_size") is not None:
        size = VALUES.whole(data["eval_batch_size"], "eval_batch_size", least=1)
        evaluation["batch_size"] = size
    if data.get("device") is not None:
        evaluation["device"] = VALUES.text(data["device"], "device")
    by_language = isinstance(data.get("models"), Mapping)
    mode = VALUES.text(data.get("mode") or ("gmpirt" if by_language else "mean"), "mode")
    if mode not in ("random", "mean"):
        draft.notes.append(
            f"`mode` is {mode}: mergenetic predicts the score on all documents from those that it "
            "draws; here the score is their mean, and `evaluation.racing` scores on few documents "
            "those candidates that are worse."
        )
    if langs:
        draft.notes.append(
            "`langs`: the language of an answer is not checked, as mergenetic does for generated "
            "texts of one language; an objective function can do that (docs/evaluation.md)."
        )
    draft.checks.append(
        "evaluation.search.documents: n_samples. By default, 200 others are for validation, and "
        "all others for the test."
    )
    return evaluation
