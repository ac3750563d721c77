"""Parents that are merges themselves: planned, built once in the run, built again when gone."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from search_run import SMALL

import evomerge
from evomerge import zoo
from evomerge.config.schema import load
from evomerge.errors import CheckpointError, InputError
from evomerge.export.card import Merge, merge_card
from evomerge.export.parents import describe_parents
from evomerge.export.recipe import merge_recipe
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source
from evomerge.run.folder import RunFolder
from evomerge.setup.freeze import freeze
from evomerge.setup.merges import MergedParent
from evomerge.setup.preflight import summary
from evomerge.setup.runs import begin, prepare, reopen

pytestmark = pytest.mark.thorough

SOUP = {
    "models": [
        {"model": "zoo:maths", "parameters": {"weight": 0.7}},
        {"model": "zoo:language", "parameters": {"weight": 0.3}},
    ],
    "merge_method": "linear",
    "dtype": "float32",
}

HALF = {"weight": 0.5}


def write(file: Path, **changes) -> Path:
    file.write_text(yaml.safe_dump(SOUP | changes))
    return file


def problem_of(folder: Path, **changes):
    file = folder / "search.yaml"
    parents = {"parents": ["zoo:facts", "merge:soup.yaml"]}
    file.write_text(yaml.safe_dump(SMALL | parents | changes))
    return prepare(load(file), folder)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}


def only(checkpoints) -> Checkpoint:
    return next(item for name, item in checkpoints.items() if name.startswith("merge:"))


@pytest.fixture
def begun(tmp_path):
    write(tmp_path / "soup.yaml")
    return begin(tmp_path / "run", problem_of(tmp_path))


def test_before_a_run_a_merge_is_planned_and_no_weight_is_written(tmp_path):
    write(tmp_path / "soup.yaml")
    problem = problem_of(tmp_path)
    planned, parent = only(problem.checkpoints), problem.checkpoints["zoo:base"]
    assert {n: (i.shape, i.dtype) for n, i in planned.tensors.items()} == {
        n: (i.shape, "F32") for n, i in parent.tensors.items()
    }
    weights = (planned.folder / "model.safetensors").stat()
    assert weights.st_size > 2_000_000
    assert weights.st_blocks * 512 < 100_000
    merges = {f"merge:{tmp_path / 'soup.yaml'}": "linear of zoo:maths, zoo:language; "}
    assert {
        k: v.removesuffix("built when the search starts")
        for k, v in summary(problem)["merges"].items()
    } == merges


def test_the_run_has_the_model_of_evomerge_merge_bit_for_bit(begun, tmp_path):
    run, problem = begun
    merge_recipe(tmp_path / "soup.yaml", tmp_path / "by-hand", "8GB", "5GB")
    built = only(problem.checkpoints)
    assert built.folder.parent == run.path / "models"
    name = "model.safetensors"
    assert (built.folder / name).read_bytes() == (tmp_path / "by-hand" / name).read_bytes()


def test_a_run_needs_neither_the_file_nor_the_folder_that_it_began_in(begun, tmp_path):
    run, problem = begun
    before = bytes_of(only(problem.checkpoints).folder)
    (tmp_path / "soup.yaml").write_text("something: else")
    run.path.rename(tmp_path / "moved")
    moved = RunFolder(tmp_path / "moved")
    assert bytes_of(only(reopen(moved).checkpoints).folder) == before
    shutil.rmtree(only(reopen(moved).checkpoints).folder)
    (tmp_path / "soup.yaml").unlink()
    assert bytes_of(only(reopen(moved).checkpoints).folder) == before


def test_killed_while_it_was_built_it_is_built_by_the_next_session(tmp_path):
    write(tmp_path / "soup.yaml")
    problem = problem_of(tmp_path)
    run = RunFolder.create(tmp_path / "run", freeze(problem))
    name = only(problem.checkpoints).folder.name
    torn = run.path / "models" / f".{name}.partial-01234567"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"half")
    checkpoint = only(reopen(run).checkpoints)
    assert checkpoint.folder == run.path / "models" / name
    assert not torn.exists()


def test_weights_that_changed_are_refused(begun):
    run, problem = begun
    file = only(problem.checkpoints).folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"has changed since it was built into .*; delete"):
        reopen(run)


def test_a_parent_of_it_that_changed_is_refused_when_it_is_built_again(tmp_path):
    shutil.copytree(zoo.path("maths"), tmp_path / "mine")
    write(tmp_path / "soup.yaml", models=[SOUP["models"][1], {"model": "./mine"}], parameters=HALF)
    run, problem = begin(tmp_path / "run", problem_of(tmp_path))
    shutil.copyfile(zoo.path("facts") / "model.safetensors", tmp_path / "mine/model.safetensors")
    reopen(run)  # what is built needs its parents no more
    shutil.rmtree(only(problem.checkpoints).folder)
    with pytest.raises(CheckpointError, match=r"cannot be built: Parent '.*mine' is not the model"):
        reopen(run)


def test_a_search_over_a_merge_ends_with_an_export_that_names_it(tmp_path):
    write(tmp_path / "soup.yaml")
    config = SMALL | {
        "parents": ["zoo:facts", f"merge:{tmp_path / 'soup.yaml'}"],
        "budget": {"candidates": 5},
        "base": f"merge:{tmp_path / 'base.yaml'}",
    }
    write(tmp_path / "base.yaml", models=[{"model": "zoo:base", "parameters": {"weight": 1.0}}])
    run = evomerge.search(config, run=tmp_path / "run", progress=False)
    run.export(tmp_path / "model", candidate=2)  # the uniform merge
    card = (tmp_path / "model" / "README.md").read_text()
    assert "`merge:soup.yaml` (a merge of `zoo:maths`, `zoo:language`)" in card
    assert str(tmp_path) not in card
    assert "A search takes `merge:soup.yaml` and `merge:base.yaml` as found when it starts" in card
    again = evomerge.resume(run, candidates=6, progress=False)
    assert len(again.candidates) == 6
    merge_recipe(tmp_path / "run" / "best.yaml", tmp_path / "same", "8GB", "5GB")


def test_a_merge_is_scored_like_its_model(tmp_path):
    write(tmp_path / "soup.yaml")
    merge_recipe(tmp_path / "soup.yaml", tmp_path / "model", "8GB", "5GB")
    scores = [
        evomerge.evaluate(model, SMALL, "search")
        for model in (f"merge:{tmp_path / 'soup.yaml'}", tmp_path / "model")
    ]
    assert scores[0] == scores[1]


def test_a_merge_of_a_merge_is_that_of_its_model(tmp_path):
    (tmp_path / "inner").mkdir()
    write(tmp_path / "inner" / "soup.yaml")
    models = [{"model": "merge:inner/soup.yaml"}, {"model": "zoo:facts"}]
    write(tmp_path / "outer.yaml", models=models, parameters=HALF)
    merge_recipe(tmp_path / "outer.yaml", tmp_path / "nested", "8GB", "5GB")
    merge_recipe(tmp_path / "inner" / "soup.yaml", tmp_path / "inner" / "model", "8GB", "5GB")
    models[0] = {"model": "./inner/model"}
    write(tmp_path / "flat.yaml", models=models, parameters=HALF)
    merge_recipe(tmp_path / "flat.yaml", tmp_path / "flat", "8GB", "5GB")
    files = [tmp_path / name / "model.safetensors" for name in ("nested", "flat")]
    assert files[0].read_bytes() == files[1].read_bytes()
    named = "`merge:soup.yaml` (a merge of `zoo:maths`, `zoo:language`)"
    assert named in (tmp_path / "nested" / "README.md").read_text()
    # mergekit knows no `merge:`, and the folder that the merge was built in is gone.
    assert not (tmp_path / "nested" / "mergekit_config.yml").exists()
    assert (tmp_path / "flat" / "mergekit_config.yml").exists()
    # In a run, both are built, and the frozen search file has both recipes.
    problem = problem_of(tmp_path, parents=["zoo:facts", "merge:outer.yaml"])
    run, problem = begin(tmp_path / "run", problem)
    assert len(run.config()["frozen"]["merges"]) == 2
    built = only(problem.checkpoints).folder / "model.safetensors"
    assert built.read_bytes() == files[0].read_bytes()


def circle(folder):
    write(folder / "soup.yaml", models=[{"model": "merge:other.yaml"}, {"model": "zoo:base"}])
    write(folder / "other.yaml", models=[{"model": "merge:soup.yaml"}, {"model": "zoo:base"}])


@pytest.mark.parametrize(
    ("prepare_files", "said"),
    [
        (lambda folder: None, r"Parent 'merge:soup.yaml' is no recipe, since there is no file"),
        (circle, r"is made from itself \(merge:.*soup.yaml -> merge:.*other.yaml -> merge:.*soup"),
        (
            lambda folder: write(folder / "soup.yaml", models=[{"model": "./nowhere"}]),
            r"Parent 'merge:.*soup.yaml' cannot be built: Parent './nowhere' is not a folder",
        ),
        (
            lambda folder: (folder / "soup.yaml").write_text(yaml.safe_dump(SMALL)),
            "soup.yaml is a search file; run it with",
        ),
    ],
)
def test_what_is_wrong_with_a_merge_is_one_sentence(tmp_path, prepare_files, said):
    prepare_files(tmp_path)
    with pytest.raises(InputError, match=said) as raised:
        problem_of(tmp_path)
    assert "\n" not in str(raised.value)


def test_the_card_has_the_hub_models_and_the_licences_of_the_parents_of_a_merge(
    tmp_path, monkeypatch
):
    def opened(reference, relative_to):
        folder = tmp_path / f"models--{reference.replace('/', '--')}" / "snapshots" / "0123"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n")
        return Checkpoint(reference, folder, {}, {})

    monkeypatch.setattr("evomerge.export.parents.open_model", opened)
    layer = Layer("linear", (Source("org/a", 0), Source("org/b", 0)))
    recipe = Recipe("org/a", {"model.layers": (layer,)}, layer, layer)
    merges = {"merge:/home/me/soup.yaml": MergedParent(recipe, {"org/a": "org/a", "b": "org/b"})}
    reference = "merge:/home/me/soup.yaml"
    checkpoints = {reference: opened("org/none", tmp_path), "org/c": opened("org/c", tmp_path)}
    checkpoints[reference] = Checkpoint(reference, tmp_path, {}, {})
    (tmp_path / "config.json").write_text("{}")
    outer = Layer("linear", tuple(Source(name, 0) for name in checkpoints))
    outer = Recipe(reference, {"model.layers": (outer,)}, outer, outer)
    parents = describe_parents(checkpoints, checkpoints, merges)
    card = merge_card(Merge(outer, parents, mergekit=False, task="text-generation"), {})[
        "README.md"
    ]
    found = yaml.safe_load(re.match(r"---\n(.*?)---\n", card, re.DOTALL)[1])
    assert found["base_model"] == ["org/a", "org/b", "org/c"]
    assert (found["license"], found["language"]) == ("mit", ["en"])
    assert "`merge:soup.yaml` (a merge of `org/a`, `org/b`)" in card
