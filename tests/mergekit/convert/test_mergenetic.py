"""mergenetic configs as search files."""

from __future__ import annotations

from typing import Any

import pytest
from known_models import converted

from evomerge.errors import RecipeError

ONE: dict[str, Any] = {
    "pop_size": 8,
    "n_iter": 5,
    "base_model": "org/romanian",
    "models": {"ro": "org/maths"},
    "langs": ["ro"],
    "tasks": {"search": {"ro": "gsm8k-ro", "base": "gsm8k-ro"}, "test": {"ro": "gsm8k-ro"}},
    "metric": "exact_match",
    "n_samples": 10,
    "dtype": "float16",
    "device": "cuda:2",
    "eval_batch_size": 64,
    "additional_templates_folder": "lm_tasks",
}
MANY: dict[str, Any] = {
    **ONE,
    "models": {"it": "org/it", "de": "org/de", "en": "org/base"},
    "base_model": "org/base",
    "langs": ["it", "de", "en"],
    "tasks": {
        "search": {"it": "arc_it", "de": "arc_de", "en": "arc_en", "base": "arc_en"},
        "test": {"it": "arc_it_test", "de": "arc_de"},
    },
}
LISTS: dict[str, Any] = {
    **{key: value for key, value in ONE.items() if key != "langs"},
    "models": ["org/it", "org/de"],
    "tasks": ["arc_it", "arc_de"],
}


def test_one_language_is_a_search_of_slerp_at_five_depths() -> None:
    config, done = converted(ONE)
    assert (config.seed, config.dtype) == (420, "float16")
    assert (config.parents, config.base) == (["org/romanian", "org/maths"], None)
    space = config.space
    assert (space.method, space.groups, space.smooth) == ("slerp", 5, True)
    assert space.components == ["attention", "mlp"]
    assert space.knobs == {"t": (0.0, 1.0)}
    assert [(o.task, o.metric) for o in config.objectives] == [("gsm8k-ro", "exact_match")]
    evaluation = config.evaluation
    assert evaluation.include == ["lm_tasks"]
    assert (evaluation.search.documents, evaluation.test.tasks) == (10, {})
    assert (evaluation.batch_size, evaluation.device) == (64, "cuda:2")
    assert (config.optimizer.population, config.budget.candidates) == (8, 40)
    assert done.text.startswith("# Converted from evolve.yaml (mergenetic). Check before")


def test_several_languages_are_a_search_of_dare_ties() -> None:
    config, done = converted(MANY)
    assert (config.parents, config.base) == (["org/it", "org/de", "org/base"], "org/base")
    assert config.space.method == "dare_ties"
    assert config.space.knobs == {"weight": (0.0, 1.0), "density": (0.0, 1.0)}
    assert [o.task for o in config.objectives] == ["arc_it", "arc_de", "arc_en"]
    assert config.evaluation.test.tasks == {"arc_it": "arc_it_test"}
    assert "Pareto" in done.text


def test_models_and_tasks_may_be_lists() -> None:
    config, _ = converted(LISTS)
    assert config.parents == ["org/it", "org/de"]
    assert [o.task for o in config.objectives] == ["arc_it", "arc_de"]


def test_csv_files_become_tasks_that_have_to_be_written() -> None:
    datasets = {"ro": "data/gsm8k_test_ro.csv", "base": "data/gsm8k_test_ro.csv"}
    config, done = converted(
        {k: v for k, v in ONE.items() if k != "tasks"} | {"datasets": datasets}
    )
    assert [(o.task, o.metric) for o in config.objectives] == [("gsm8k_test_ro", "exact_match")]
    assert any("write an lm-eval task gsm8k_test_ro" in note for note in done.notes)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"mode": "mpirt"}, "`evaluation.racing` scores on few documents"),
        ({}, "`mode` is gmpirt"),
        ({"pop_size": 1}, "`pop_size` is 1"),
        ({"langs": ["ro"]}, "`langs`: the language of an answer is not checked"),
        ({"models": {"ro": "org/maths", "de": "org/de"}}, "`models.de` is dropped"),
        ({"datasets": {"ro": "a.csv"}}, "`datasets` is dropped"),
        *(
            ({key: "something"}, f"`{key}` is dropped: ")
            for key in (
                "run_id",
                "path_to_store_config",
                "path_to_store_merged_model",
                "bench",
                "task_type",
                "force_evaluation",
                "load_in_4bit",
                "eager_mode",
            )
        ),
    ],
)
def test_a_key_without_a_counterpart_is_named(changes: dict[str, Any], note: str) -> None:
    assert any(note in item for item in converted({**ONE, **changes})[1].notes)


def test_drawing_documents_at_random_needs_no_note() -> None:
    assert not any("`mode`" in note for note in converted({**ONE, "mode": "random"})[1].notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pop_sze": 3}, "Did you mean 'pop_size'"),
        ({"pop_size": None}, "`pop_size` is None"),
        ({"n_iter": 0}, "`n_iter` is 0"),
        ({"base_model": None}, "`base_model` is None"),
        ({"base_model": "org/maths"}, "nothing to merge"),
        ({"models": {"de": "org/de"}}, "`models` names no model"),
        ({"dtype": "int8"}, "`dtype` is 'int8'"),
        ({"tasks": None}, "`tasks` and `datasets` are missing"),
        ({"tasks": {"serch": {"ro": "a"}}}, "Did you mean 'search'"),
        ({"tasks": {"search": {"de": "a"}}}, "`tasks` names no task"),
        ({"tasks": None, "datasets": {"de": "a.csv"}}, "no file of a language"),
    ],
)
def test_wrong_mergenetic_configs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        converted({**ONE, **changes})
