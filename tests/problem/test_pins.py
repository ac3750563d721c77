"""Recipes build the model that they were written for, or refuse; see `evomerge.problem.parents`."""

import re
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from search_run import SMALL, evomerge

from evomerge import merge, zoo
from evomerge.config.schema import parse
from evomerge.errors import InputError
from evomerge.export.checkpoint import export_candidate
from evomerge.problem.runs import begin, prepare
from evomerge.recipe import Recipe
from evomerge.searching.run import run_search

pytestmark = pytest.mark.thorough


def search_here(folder, name, candidates, **changes):
    config = {**SMALL, **changes, "budget": {"candidates": candidates}}
    wrote = parse(config, name)
    problem = prepare(wrote, folder)
    run = begin(folder / name, problem, wrote, folder / "search.yaml")
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


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """The uniform merge of a search over two local models, of which one has pickled weights."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("maths", "facts"):
        shutil.copytree(zoo.path(name), tmp_path / name)
    file = tmp_path / "maths" / "model.safetensors"
    torch.save(load_torch(file), file.with_name("pytorch_model.bin"))
    file.unlink()
    run = search_here(tmp_path, "run", 4, parents=["./maths", "./facts"])
    model = export(run, tmp_path / "exported", "2")
    return run, model / "evomerge_recipe.yaml", weights(model)


def test_what_the_recipe_was_made_from_may_be_moved_but_not_replaced(begun):
    run, recipe, exported = begun
    folder = run.path.parent
    assert weights(export(run, folder / "itself", "0")) == weights(zoo.path("maths"))
    moved = folder / "new place"
    moved.mkdir()
    written = recipe.read_text()
    for name in ("maths", "facts"):
        (folder / name).rename(moved / name)
        written = written.replace(str(folder / name), str(moved / name))
    (moved / "best.yaml").write_text(written)
    assert weights(merge(moved / "best.yaml", folder / "model")) == exported

    shutil.copyfile(zoo.path("base") / "model.safetensors", moved / "facts" / "model.safetensors")
    said = refused("merge", moved / "best.yaml", "--out", folder / "other")
    assert re.search(
        r"Parent '.*facts' is not the model .*: its fingerprint was [0-9a-f]{16}", said
    )
    for name in ("maths", "facts"):
        (moved / name).rename(folder / name)
    for words in (("resume", "--candidates", "6"), ("export", "--out", folder / "x")):
        assert "has changed since the run was started" in refused(words[0], run.path, *words[1:])
    (moved / "best.yaml").write_text(written := recipe.read_text())
    # Without its pin, what is there now is merged; the other pin still holds.
    whole = Recipe.from_yaml(written)
    bare = replace(whole, pins={})
    assert whole.pins.keys() == set(whole.parents)
    assert (bare, bare.digest, bare.canonical()) == (whole, whole.digest, whole.canonical())
    pins = {name: pin for name, pin in whole.pins.items() if name.endswith("maths")}
    assert weights(merge(replace(whole, pins=pins), folder / "other")) != exported


@pytest.mark.parametrize(
    ("pins", "said"),
    [
        ({"zoo:facts": {"sha256": "0" * 64}}, "names 'zoo:facts', which is no parent of the"),
        ({"zoo:maths": {"sha256": "0"}}, "`pins.zoo:maths.sha256` is '0'; it must be 64 hex"),
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
