"""A run as a parent of another: its best model is frozen and does not change later."""

import shutil

import pytest
import yaml
from search_run import SMALL

from evomerge.config.schema import parse
from evomerge.errors import InputError
from evomerge.export.candidate import export_candidate
from evomerge.recipe import Recipe
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.setup.check import freeze
from evomerge.setup.runs import prepare, reopen
from evomerge.setup.search import run_search


def search(folder, name, candidates, **changes):
    problem = prepare(
        parse({**SMALL, **changes, "budget": {"candidates": candidates}}, name), folder
    )
    run = RunFolder.create(folder / name, freeze(problem))
    run_search(problem, run, {})
    return run


def go_on(run, candidates):
    run_search(reopen(run), run, {"candidates": candidates})


def best(run):
    return Recipe.from_yaml((run.path / "best.yaml").read_text()).digest


def trajectory(run):
    return [(item.digest, item.values) for item in History(run.events()).candidates]


def weights(run, out):
    export_candidate(run, out, "best", None, "5GB")
    return (out / "model.safetensors").read_bytes()


BUILT_ON = {"parents": ["run:./first", "zoo:maths"]}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A run that found a better candidate after two other runs had used it as a parent.

    The search of one of the two had ended before, that of the other had been stopped.
    """
    folder = tmp_path_factory.mktemp("runs")
    first = search(folder, "first", 3)
    whole = search(folder, "whole", 9, **BUILT_ON)
    search(folder, "half", 5, **BUILT_ON)
    exported = weights(whole, folder / "exported")
    before = best(first)
    go_on(first, 22)
    assert best(first) != before, "no better candidate was found, so this tests nothing"
    return folder, exported


@pytest.mark.parametrize("models", ["kept", "lost"])
def test_a_resumed_run_uses_the_frozen_model_of_its_parent_run(family, tmp_path, models):
    folder, exported = family
    if models == "lost":
        shutil.rmtree(folder / "first" / "models")
    shutil.copytree(folder / "half", folder / f"half-{models}")
    half = RunFolder(folder / f"half-{models}")
    assert len(trajectory(half)) == 5
    go_on(half, 9)
    assert trajectory(half) == trajectory(RunFolder(folder / "whole"))
    assert weights(half, tmp_path / "model") == exported
    assert weights(RunFolder(folder / "whole"), tmp_path / "again") == exported


def test_a_new_search_uses_the_best_model_of_now(family):
    folder, _ = family
    problem = prepare(parse({**SMALL, **BUILT_ON}, "new"), folder)
    found = problem.checkpoints[problem.config.parents[0]].folder.name
    frozen = yaml.safe_load((folder / "half" / "search.yaml").read_text())["frozen"]["models"]
    assert best(RunFolder(folder / "first")).startswith(found)
    assert found not in frozen.values()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("another run", r"was the recipe [0-9a-f]{16}, but that run does not have"),
        ("nothing", "Parent 'run:.*first': .*first does not exist"),
    ],
)
def test_a_parent_run_that_is_missing_or_another_is_one_sentence(family, tmp_path, change, told):
    folder, _ = family
    shutil.copytree(folder / "half", tmp_path / "half")
    frozen = tmp_path / "half" / "search.yaml"
    moved = frozen.read_text().replace(str(folder / "first"), str(tmp_path / "first"))
    data = yaml.safe_load(moved)
    del data["frozen"]["digests"]  # by which a file that was changed by hand is refused
    frozen.write_text(yaml.safe_dump(data))
    if change == "another run":
        search(tmp_path, "first", 3, seed=7)
    with pytest.raises(InputError, match=told) as caught:
        reopen(RunFolder(tmp_path / "half"))
    assert "\n" not in str(caught.value)
