"""mergekit-evolve configs as search files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from known_models import KnownModels, converted

from evomerge.errors import EvomergeError, RecipeError
from evomerge.mergekit.convert import convert, convert_file

EVOLVE = """
genome:
  models: [org/one, org/two]
  base_model: org/base
  merge_method: dare_ties
  layer_granularity: 8
  normalize: true
  allow_negative_weights: true
  smooth: true
  filters: [self_attn, mlp]
  tokenizer_source: union
tasks:
- {name: maths, weight: 2.0, metric: "exact_match,strict"}
- {name: text, weight: -1, metric: "word_perplexity,none"}
limit: 64
num_fewshot: 3
"""

SLERP = {"genome": {"models": ["org/a", "org/b"], "merge_method": "slerp"}, "tasks": ["maths"]}


def genome(**changes: Any) -> dict[str, Any]:
    return {**SLERP, "genome": {**SLERP["genome"], **changes}}


def test_a_mergekit_evolve_config_becomes_a_search_file() -> None:
    config, done = converted(EVOLVE, layers=32, templates=True)
    assert config.parents == ["org/one", "org/two"]
    assert (config.base, config.tokenizer) == ("org/base", "union")
    space = config.space
    assert (space.method, space.groups, space.smooth) == ("dare_ties", 4, True)
    assert (space.components, space.embeddings) == (["attention", "mlp"], False)
    assert space.knobs == {"weight": (-1.0, 1.0), "density": (0.0, 1.0), "normalize": 1.0}
    found = [(item.task, item.metric, item.weight) for item in config.objectives]
    assert found == [("maths", "exact_match,strict", 2.0), ("text", "word_perplexity", 1.0)]
    assert config.evaluation.search.documents == 64
    assert config.evaluation.fewshot == 3
    assert config.budget.candidates == 100
    assert done.text.startswith("# Converted from evolve.yaml (mergekit-evolve). Check before")
    assert [note.split(":")[0] for note in done.notes] == [
        "`tasks[1].weight` is -1; its sign is dropped, because a search knows for which metrics "
        "lower is better.",
        "`limit`",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("granularity: 8", "granularity: 7", "must divide the number of layers, 32"),
        ("granularity: 8", "granularity: -1", "`genome.layer_granularity` is -1"),
        ("dare_ties", "dare_tise", "Did you mean 'dare_ties'"),
        ("self_attn", "self_atn", "Did you mean 'self_attn'"),
        ("limit: 64", "limit: 0", "`limit` is 0"),
        ("limit: 64", "apply_chat_template: 1", "must be true or false"),
    ],
)
def test_wrong_evolve_configs_are_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        converted(EVOLVE.replace(old, new), layers=32)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("layer_granularity", "layer_granulrity", "layer_granularity"),
        ("weight: 2.0", "weigth: 2.0", "weight"),
        ("limit: 64", "shufle: true", "shuffle"),
    ],
)
def test_keys_that_mergekit_evolve_ignores_are_noted(old: str, new: str, key: str) -> None:
    text = EVOLVE.replace(old, new)
    done = convert(text, "evolve.yaml", KnownModels(32, True))
    (note,) = [note for note in done.notes if "ignores this key" in note]
    assert note.endswith(f"Did you mean '{key}'?")


@pytest.mark.parametrize(
    ("config", "note"),
    [
        (
            {**SLERP, "model_name": "mine"},
            "'model_name' in `the mergekit-evolve config` is dropped",
        ),
        ({**SLERP, "shuffle": True}, "`shuffle` is dropped"),
        ({**SLERP, "random_init": True}, "`random_init` is dropped"),
        ({**SLERP, "fewshot_as_multiturn": False}, "`fewshot_as_multiturn` is dropped"),
        ({**SLERP, "limit": 9}, "takes the first 9 documents"),
        (SLERP, "`limit` is not set"),
        (genome(normalize=True), "`genome.normalize` is dropped"),
        (genome(allow_negative_weights=True), "`genome.allow_negative_weights` is dropped"),
        (genome(base_model="org/base"), "`genome.base_model`: slerp merges no base"),
        ({**SLERP, "tasks": ["maths", {"name": "b", "weight": 0}]}, "`tasks[1]` is dropped"),
    ],
)
def test_a_key_without_a_counterpart_is_named(config: dict[str, Any], note: str) -> None:
    _, done = converted(config, templates=True)
    assert any(note in item for item in done.notes)


def test_slerp_of_many_models_becomes_multislerp() -> None:
    config, done = converted(
        genome(models=["org/a", "org/b", "org/c"], base_model="org/base"), templates=True
    )
    assert (config.space.method, config.base) == ("multislerp", None)
    assert "multislerp merges all of them" in done.notes[0]
    assert "`genome.base_model` is dropped" in done.notes[1]


@pytest.mark.parametrize(
    ("method", "normalize"), [("linear", 1), ("dare_ties", 1), ("ties", 1), ("task_arithmetic", 0)]
)
def test_normalize_has_the_default_of_mergekit_evolve(method: str, normalize: int) -> None:
    config, _ = converted(genome(merge_method=method, base_model="org/base"))
    assert config.space.knobs["normalize"] == normalize


def test_tasks_may_be_names_and_may_stand_twice() -> None:
    config, _ = converted({**SLERP, "tasks": ["maths", "text", {"name": "maths", "weight": 2}]})
    assert [(o.task, o.metric, o.weight) for o in config.objectives] == [
        ("maths", "acc", 3.0),
        ("text", "acc", 1.0),
    ]
    with pytest.raises(RecipeError, match="every weight is 0"):
        converted({**SLERP, "tasks": [{"name": "maths", "weight": 0}]})


@pytest.mark.parametrize(
    ("wanted", "has_one", "here", "words"),
    [
        (None, True, True, "as by default in mergekit-evolve"),
        (None, False, False, "has no chat template"),
        (None, None, True, "could not be read"),
        (True, False, False, "has no chat template"),
        (True, None, True, "could not be read"),
        (False, True, False, None),
        (False, None, False, None),
    ],
)
def test_the_chat_template_is_on_by_default_as_there(
    wanted: bool | None, has_one: bool | None, here: bool, words: str | None
) -> None:
    keys = {} if wanted is None else {"apply_chat_template": wanted}
    config, done = converted({**SLERP, **keys}, templates=has_one)
    assert config.evaluation.chat_template is here
    comment = " ".join(line.lstrip("# ") for line in done.text.splitlines())
    assert (words in comment) if words else ("chat_template:" not in comment.split("seed:")[0])
    unsure = has_one is not True and wanted is not False
    assert any("chat_template" in note for note in done.notes) is unsure


def test_unknown_models_leave_the_groups_to_the_reader() -> None:
    config, done = converted(EVOLVE)
    assert config.space.groups == "one"
    (note,) = [note for note in done.notes if note.startswith("space.groups")]
    assert "the number of layers divided by 8" in note
    assert "# - space.groups: set it" in done.text
    config, done = converted(genome(layer_granularity=1))
    assert config.space.groups == "each"  # needs no number of layers
    assert not any("groups" in note for note in done.notes)


def test_names_cannot_leave_the_comment() -> None:
    models = ["org/a\n\nseed: 7\x85x: 1", "org/b"]
    config, done = converted(genome(models=models, layer_granularity=2))
    assert (config.seed, config.parents) == (0, models)
    assert all("\n" not in note for note in done.notes)


def test_local_models_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.make(tmp_path / "a", "llama")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "evolve.yml"
    file.write_text(EVOLVE.replace("org/one", "./a").replace("y: 8", "y: 3"))
    found = yaml.safe_load(convert_file(file).text)
    assert found["space"]["groups"] == 1
    file.write_text(yaml.safe_dump(genome(models=["./a", "org/b"])))
    assert yaml.safe_load(convert_file(file).text)["evaluation"]["chat_template"] is False
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert yaml.safe_load(convert_file(file).text)["evaluation"]["chat_template"] is True
    with pytest.raises(EvomergeError, match="does not exist"):
        convert_file(tmp_path / "nothing.yml")
