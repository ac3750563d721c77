"""A run as a parent of another: its best model is frozen and does not change later."""

import json
import shutil

import pytest
from search_run import SMALL

from evomerge.__main__ import run as call
from evomerge.config.schema import parse
from evomerge.errors import InputError
from evomerge.export.candidate import export_candidate
from evomerge.recipe import Recipe
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.setup import runs
from evomerge.setup.freeze import freeze
from evomerge.setup.runs import prepare, reopen
from evomerge.setup.search import run_search

pytestmark = pytest.mark.thorough


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
    frozen = json.loads((folder / "half" / "manifest.json").read_text())["models"]
    assert best(RunFolder(folder / "first")).startswith(found)
    assert found not in frozen.values()


def test_a_model_that_another_search_writes_meanwhile_is_taken(family, monkeypatch):
    folder, _ = family
    shutil.rmtree(folder / "first" / "models")
    write, written = runs.write_model, []

    def write_twice(*arguments, **options):
        for _ in range(2):
            written.append(arguments[2])
            write(*arguments, **options)

    monkeypatch.setattr(runs, "write_model", write_twice)
    problem = prepare(parse({**SMALL, **BUILT_ON}, "new"), folder)
    assert [problem.checkpoints[problem.config.parents[0]].folder] * 2 == written


def test_a_run_of_any_name_works_in_every_command(family, tmp_path, capsys):
    folder, _ = family
    run = tmp_path / "a+b #1 50%20 é;$x"
    shutil.copytree(folder / "first", run)
    (tmp_path / "link").symlink_to(run)
    for name in (run, tmp_path / "link"):
        for command in (
            ["status", name],
            ["results", name, "--csv", tmp_path / "rows.csv"],
            ["report", name],
            ["resume", name, "--candidates", "22"],
            ["export", name, "--out", tmp_path / f"model of {name.name}"],
            ["merge", name / "best.yaml", "--out", tmp_path / f"merge of {name.name}"],
        ):
            assert call(list(map(str, command))) == 0
        start = {"optimizer": {"start": [f"run:{name}"]}}
        assert prepare(parse({**SMALL, **start}, "new"), tmp_path).start
        problem = prepare(
            parse({**SMALL, "parents": [f"run:{name}", "zoo:maths"]}, "new"), tmp_path
        )
        assert problem.config.parents[0] == f"run:{run}"
    files = [tmp_path / f"{kind} of {run.name}" for kind in ("model", "merge")]
    first, second = [(file / "model.safetensors").read_bytes() for file in files]
    assert first == second


def test_a_budget_that_is_in_force_already_is_not_journaled_again(family, tmp_path):
    """As after a kill of `search --candidates 9`, continued by `resume --candidates 9`."""
    folder, _ = family
    run = RunFolder(shutil.copytree(folder / "whole", tmp_path / "whole"))
    before = run.journal_path.read_bytes()
    go_on(run, 9)
    assert run.journal_path.read_bytes() == before


def move(run, old, new):
    """Let a run name another folder; without the digests, by which such a change is refused."""
    file, manifest = run / "search.yaml", run / "manifest.json"
    file.write_text(file.read_text().replace(str(old), str(new)))
    data = json.loads(manifest.read_text().replace(str(old), str(new)))
    del data["digests"]
    manifest.write_text(json.dumps(data))


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
    move(tmp_path / "half", folder / "first", tmp_path / "first")
    if change == "another run":
        search(tmp_path, "first", 3, seed=7, parents=["zoo:facts", "zoo:steps"])
    with pytest.raises(InputError, match=told) as caught:
        reopen(RunFolder(tmp_path / "half"))
    assert "\n" not in str(caught.value)
