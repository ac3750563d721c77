"""Configs, tasks and weights with which a search would fail later than at its start are refused."""

import json
import shutil

import pytest
import tiny
import torch
from search_run import SMALL, SPLITS, problem_of
from tiny import copy_of

import evomerge
from evomerge import zoo
from evomerge.__main__ import run as call
from evomerge.errors import CheckpointError, ConfigError, InputError
from evomerge.evaluation.lm_eval.loading import check_task
from evomerge.evaluation.lm_eval.tasks import Harness
from evomerge.merging.architecture.depth import built_config
from evomerge.merging.architecture.loadable import check_buildable
from evomerge.merging.backend import check_finite
from evomerge.models.checkpoint import Checkpoint
from evomerge.parsing.values import replaced
from evomerge.recipe import Layer, Recipe, Source

pytestmark = pytest.mark.thorough

FEW = {"include": ["zoo:tasks"], **SPLITS}
CONFIG = {**SMALL, "evaluation": FEW, "budget": {"candidates": 4}}


def test_the_config_of_a_later_parent_is_checked_too(tmp_path):
    other = copy_of("maths", tmp_path / "other", hidden_act="os")
    with pytest.raises(CheckpointError, match="'os'"):
        problem_of(SMALL | {"parents": ["zoo:language", str(other), "zoo:maths"]})


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_models_as_transformers_saves_them_are_accepted(tmp_path, architecture):
    checkpoint = Checkpoint.open(tiny.make(tmp_path / "model", architecture), architecture)
    check_buildable(checkpoint, built_config(checkpoint))


def test_tensors_may_be_left_over_but_not_missing(tmp_path):
    folder = tiny.make(tmp_path / "model")
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    tiny.rewrite(folder, lambda tensors: tensors.update({buffer: torch.ones(4)}))
    checkpoint = Checkpoint.open(folder, "model")
    check_buildable(checkpoint, built_config(checkpoint))
    tiny.rewrite(folder, lambda tensors: tensors.pop("model.norm.weight"))
    checkpoint = Checkpoint.open(folder, "model")
    with pytest.raises(CheckpointError, match=r"'model\.norm\.weight'"):
        check_buildable(checkpoint, built_config(checkpoint))


def test_a_search_that_fails_at_its_start_leaves_no_folder(tmp_path):
    """Its model can be run, but not on the prompts of the task, which only the worker notices."""
    host = copy_of("base", tmp_path / "host", max_position_embeddings=3)
    config = CONFIG | {"base": str(host)}
    run = tmp_path / "run"
    with pytest.raises(InputError, match="reads at most 3 tokens"):
        evomerge.search(config, run, progress=False)
    assert not run.exists()
    tiny.edit_config(host, max_position_embeddings=512)
    evomerge.search(config, run, progress=False)
    assert b'"winner"' in (run / "journal.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("max_time", 5.0, "'max_time', so its scores would depend on the speed"),
        ("custom_generate", "stranger/code", "runs code from elsewhere"),
        ("trust_remote_code", "stranger/code", "runs code from elsewhere"),
    ],
)
def test_a_task_may_not_generate_by_the_clock_or_by_code_from_elsewhere(key, value, sentence):
    task = Harness(["zoo_maths"], [zoo.tasks_path()]).tasks["zoo_maths"]
    task.set_config(key="generation_kwargs", value={key: value}, update=True)
    with pytest.raises(ConfigError, match=sentence):
        check_task(task, "objectives")


BAD = "model.layers.4.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """An expert of the zoo with one weight that is not a number."""
    folder = shutil.copytree(zoo.path("maths"), tmp_path_factory.mktemp("models") / "maths")
    tiny.rewrite(folder, lambda tensors: tensors[BAD].view(-1)[77:78].fill_(float("nan")))
    return str(folder)


PATHS = {"kind": "dataflow", "variant": "swaps", "scales": 1.0}
PLACES = {
    "the first parent": {"parents": ["BROKEN", "zoo:language"]},
    "the base": {"base": "BROKEN"},
    "a later parent of paths": {"parents": ["zoo:language", "BROKEN"], "space": PATHS},
}


@pytest.mark.parametrize("command", ["search", "validate"])
@pytest.mark.parametrize("place", PLACES)
def test_a_weight_that_is_not_a_number_is_found_before_the_first_score(
    broken, tmp_path, place, command
):
    changes = replaced(PLACES[place], lambda value: broken if value == "BROKEN" else value)
    with pytest.raises(CheckpointError) as caught:
        if command == "search":
            evomerge.search(CONFIG | changes, tmp_path / "run", progress=False)
        else:
            evomerge.validate(CONFIG | changes)
    assert str(caught.value) == (
        f"{BAD}: 1 of 24576 weights of {broken!r} are NaN or infinite, and so is every merge of "
        "them; repair the file, or remove the parent."
    )
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_validate_reads_the_weights_of_large_models_only_with_time(broken, tmp_path, monkeypatch):
    """It says in seconds what it says; to read 100 GB takes minutes."""
    file = tmp_path / "search.yaml"
    file.write_text(json.dumps(CONFIG | {"parents": [broken, "zoo:language"]}))
    monkeypatch.setattr("evomerge.api.validate.READ_IN_SECONDS", 1e6)
    assert call(["validate", str(file)]) == 0
    with pytest.raises(CheckpointError, match="are NaN or infinite"):
        call(["validate", str(file), "--time"])


def test_weights_that_no_recipe_reads_may_be_anything(tmp_path):
    folder = tiny.make(tmp_path / "model")
    name = "model.layers.1.mlp.up_proj.weight"
    tiny.rewrite(folder, lambda tensors: tensors[name].fill_(float("inf")))
    model = Checkpoint.open(folder, "m")

    def path(*blocks):
        layers = tuple(Layer("passthrough", (Source("m", block),)) for block in blocks)
        whole = Layer("passthrough", (Source("m"),))
        return Recipe("m", {"model.layers": layers}, whole, whole, dtype="float32")

    check_finite({"m": model}, [path(0, 2), path(2, 2, 0)])
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight: 384 of 384"):
        check_finite({"m": model}, [path(0, 2), path(0, 1, 2)])
