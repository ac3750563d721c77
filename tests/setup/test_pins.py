"""Recipes build the model that they were written for, or refuse; see `evomerge.setup.merges`."""

import re
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from search_run import SMALL, evomerge

from evomerge import Run, merge, zoo
from evomerge.config.schema import parse
from evomerge.errors import InputError
from evomerge.export.candidate import export_candidate
from evomerge.recipe import Recipe
from evomerge.setup.runs import begin, prepare, reopen
from evomerge.setup.search import run_search
from evomerge.trust.consent import Permissions

pytestmark = pytest.mark.thorough


def soup(file, *parents, weight=0.5, **changes):
    models = [{"model": name, "parameters": {"weight": weight}} for name in parents]
    data = {"models": models, "merge_method": "linear", "dtype": "float32", **changes}
    file.write_text(yaml.safe_dump(data))
    return file


def search(folder, name, candidates, **changes):
    config = {**SMALL, **changes, "budget": {"candidates": candidates}}
    run, problem = begin(folder / name, prepare(parse(config, name), folder))
    run_search(problem, run, {})
    return run


def export(run, out, which="best"):
    export_candidate(run, out, which, None, "5GB")
    return out


def weights(folder):
    """Return the bits of all tensors; the file of a parent that wins has its own header."""
    tensors = load_file(folder / "model.safetensors")
    return {name: (item.dtype, item.shape, item.tobytes()) for name, item in tensors.items()}


def refused(*arguments):
    """Return the error of a command that must end with one sentence and the exit code 2."""
    said = evomerge(*arguments, code=2).stderr
    assert said.count("\n") == 1
    return said


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Runs and merges of an earlier best candidate of a run that has found a better one since.

    `direct` has the run as a parent, `nested` a merge of a merge of it; each is exported.
    """
    folder = tmp_path_factory.mktemp("runs")
    first = search(folder, "first", 3)
    soup(folder / "inner.yaml", "run:first", "zoo:maths")
    soup(folder / "outer.yaml", "merge:inner.yaml", "zoo:facts")
    for name, parent in (("direct", "run:./first"), ("nested", "merge:outer.yaml")):
        run = search(folder, name, 4, parents=[parent, "zoo:maths"])
        export(run, folder / f"{name}-model")
    merge(folder / "outer.yaml", folder / "merged")
    before = (first.path / "best.yaml").read_text()
    run_search(reopen(first), first, {"candidates": 22})
    assert (first.path / "best.yaml").read_text() != before, "no better one, so this tests nothing"
    merge(folder / "outer.yaml", folder / "of-now")
    assert weights(folder / "of-now") != weights(folder / "merged")
    return folder


@pytest.mark.parametrize("models", ["kept", "lost"])
@pytest.mark.parametrize("name", ["direct", "nested"])
def test_a_recipe_builds_the_candidate_that_its_run_was_made_from(family, tmp_path, name, models):
    if models == "lost":
        shutil.rmtree(family / "first" / "models")
    exported = weights(family / f"{name}-model")
    for file in (family / name / "best.yaml", family / f"{name}-model" / "evomerge_recipe.yaml"):
        assert weights(merge(file, tmp_path / file.stem)) == exported
        again = tmp_path / file.stem / "evomerge_recipe.yaml"  # what it writes has pins, too
        assert Recipe.from_yaml(again.read_text()).pins == Recipe.from_yaml(file.read_text()).pins
    assert weights(merge(Run(family / name).recipe(), tmp_path / "api")) == exported


def test_a_merged_recipe_builds_the_candidate_that_it_was_merged_from(family, tmp_path):
    recipe = family / "merged" / "evomerge_recipe.yaml"
    assert weights(merge(recipe, tmp_path / "again")) == weights(family / "merged")


def test_a_search_can_have_two_candidates_of_one_run(family, tmp_path):
    """One through the recipe of an earlier search, and the best of now by the run's name."""
    parents = [f"run:{family / 'first'}", f"merge:{family / 'direct' / 'best.yaml'}"]
    run = search(tmp_path, "run", 4, parents=parents)
    exported = weights(export(run, tmp_path / "model"))
    built = {path.name: weights(path) for path in (run.path / "models").iterdir() if path.is_dir()}
    assert list(built.values()) == [weights(family / "direct-model")]
    for name in built:
        shutil.rmtree(run.path / "models" / name)
    assert weights(export(run, tmp_path / "again")) == exported
    assert weights(merge(run.path / "best.yaml", tmp_path / "merged")) == exported


def test_another_run_in_the_place_of_the_first_is_refused(family, tmp_path):
    other = search(tmp_path, "first", 3, seed=7)
    soup(family / "soup.yaml", "run:first", "zoo:facts")
    merge(family / "soup.yaml", tmp_path / "soup")
    text = (tmp_path / "soup" / "evomerge_recipe.yaml").read_text()
    (tmp_path / "best.yaml").write_text(text.replace(str(family / "first"), str(other.path)))
    said = refused("merge", tmp_path / "best.yaml", "--out", tmp_path / "model")
    assert re.search(r"was the recipe [0-9a-f]{16}, but that run does not have this", said)
    assert not (tmp_path / "model").exists()


@pytest.fixture
def begun(tmp_path):
    """The uniform merge of a search over a merge of a local model, and a local model."""
    for name in ("maths", "facts"):
        shutil.copytree(zoo.path(name), tmp_path / name)
    soup(tmp_path / "soup.yaml", "./maths", "zoo:language")
    run = search(tmp_path, "run", 4, parents=["merge:soup.yaml", "./facts"])
    model = export(run, tmp_path / "exported", "2")
    return tmp_path, model / "evomerge_recipe.yaml", weights(model)


def test_what_the_recipe_was_made_from_may_be_moved_and_rewritten(begun):
    folder, recipe, exported = begun
    moved = folder / "new place"
    moved.mkdir()
    for name in ("soup.yaml", "maths", "facts"):
        (folder / name).rename(moved / name)
    text = (moved / "soup.yaml").read_text()
    (moved / "soup.yaml").write_text(f"# a comment\n{text}")
    written = recipe.read_text()
    for name in ("soup.yaml", "facts"):
        written = written.replace(str(folder / name), str(moved / name))
    (moved / "best.yaml").write_text(written)
    assert weights(merge(moved / "best.yaml", folder / "model")) == exported


def test_another_content_of_a_parent_is_refused(begun):
    folder, recipe, exported = begun
    original = (folder / "soup.yaml").read_text()
    soup(folder / "soup.yaml", "./maths", "zoo:language", weight=0.6)
    said = refused("merge", recipe, "--out", folder / "model")
    assert re.search(r"Parent 'merge:.*soup.yaml' is not .* its recipe was [0-9a-f]{16} and", said)
    for command in (
        ["merge", folder / "run" / "best.yaml", "--out", folder / "model"],
        ["evaluate", f"merge:{recipe}", "--config", folder / "run" / "search.yaml"],
    ):
        assert "is not the model that the recipe was made from" in refused(*command)
    (folder / "soup.yaml").write_text(original)

    other = (folder / "facts" / "model.safetensors").read_bytes()
    file = folder / "maths" / "model.safetensors"
    file.write_bytes(other)
    said = refused("merge", recipe, "--out", folder / "model")
    assert "one of its own parents (./maths, zoo:language) has changed; put it back" in said
    shutil.copyfile(zoo.path("maths") / "model.safetensors", file)

    shutil.copyfile(file, folder / "facts" / "model.safetensors")
    said = refused("merge", recipe, "--out", folder / "model")
    assert re.search(
        r"Parent '.*facts' is not the model .*: its fingerprint was [0-9a-f]{16}", said
    )

    # Without its pin, what is there now is merged; the other pin still holds.
    written = Recipe.from_yaml(recipe.read_text())
    pins = {name: pin for name, pin in written.pins.items() if name.startswith("merge:")}
    assert weights(merge(replace(written, pins=pins), folder / "model")) != exported


def test_pins_are_no_part_of_a_recipe(begun):
    _, file, _ = begun
    recipe = Recipe.from_yaml(file.read_text())
    assert recipe.pins.keys() == set(recipe.parents)
    bare = replace(recipe, pins={})
    assert (bare, bare.digest, bare.canonical()) == (recipe, recipe.digest, recipe.canonical())
    assert Recipe.from_yaml(recipe.to_yaml()).pins == recipe.pins


@pytest.mark.parametrize(
    ("pins", "said"),
    [
        ({"zoo:facts": {"sha256": "0" * 64}}, "names 'zoo:facts', which is no parent of the"),
        ({"zoo:maths": {"sha256": "0"}}, "`pins.zoo:maths.sha256` is '0'; it must be 64 hex"),
        ({"zoo:maths": {"recipe": "../../../models"}}, "it must be 16 hexadecimal digits"),
        ({"zoo:maths": {"runs": {"run:a": ".."}}}, "it must be 16 hexadecimal digits"),
        ({"zoo:maths": {"sha": "0"}}, "Unknown key 'sha'"),
        ({"zoo:maths": {"sha256": "0" * 64}}, "Parent 'zoo:maths' is not the model"),
    ],
)
def test_pins_that_are_wrong_are_one_sentence(tmp_path, pins, said):
    layer = {"method": "passthrough", "sources": [{"parent": "zoo:maths"}]}
    data = {"host": "zoo:maths", "embeddings": layer, "layers": {}, "head": layer, "pins": pins}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        merge(tmp_path / "recipe.yaml", tmp_path / "model")
    assert "\n" not in str(caught.value)


@pytest.fixture
def pickled(tmp_path):
    """A search over a pickled parent, and what writes other weights."""
    folder = tmp_path / "maths"
    shutil.copytree(zoo.path("maths"), folder)
    tensors = load_torch(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()

    def write(factor):
        scaled = {name: item * factor for name, item in tensors.items()}
        torch.save(scaled, folder / "pytorch_model.bin")

    write(1.0)
    config = {**SMALL, "parents": ["./maths", "zoo:language"], "budget": {"candidates": 4}}
    return prepare(parse(config, "search"), tmp_path, Permissions(allow_pickle=True)), write


def test_other_weights_in_a_pickle_file_are_refused(pickled, tmp_path):
    problem, write = pickled
    run, problem = begin(tmp_path / "run", problem)
    run_search(problem, run, {})
    model = tmp_path / "model"
    export_candidate(run, model, "2", None, "5GB", allow_pickle=True)
    recipe, out = model / "evomerge_recipe.yaml", tmp_path / "again"
    evomerge("merge", recipe, "--out", out, "--allow-pickle")
    assert weights(out) == weights(model)
    write(0.5)
    merging = ("merge", recipe, "--out", tmp_path / "other", "--allow-pickle")
    assert "is not the model that the recipe was made from" in refused(*merging)
    for words in (
        ("resume", run.path, "--candidates", "6"),
        ("export", run.path, "--out", tmp_path / "x"),
    ):
        assert "has changed since the run was started" in refused(*words, "--allow-pickle")
