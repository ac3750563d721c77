"""The model card: only models of the Hub are base models, and no local path is shown."""

import pytest
import yaml
from run_folders import asked, scores, told
from search_run import SMALL, write_search

from evomerge.config.schema import load, parse
from evomerge.export.candidate import export_candidate
from evomerge.export.card import model_card
from evomerge.recipe import Layer, Recipe, Source
from evomerge.report.names import short_names
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.journal import encode
from evomerge.scores import Objective
from evomerge.setup.check import freeze
from evomerge.setup.runs import prepare

PARENTS = {
    "org/maths": "org/maths",
    "org/language@v1.0": "org/language",
    "org/code+/home/me/adapters/json": "org/code",
    "org/chat@main+org/polite": "org/chat",
    "/home/me/models/mine": None,
    "/home/me/models/mine+org/adapter": None,
    "run:/home/me/runs/first": None,
    "run:org/first": None,
    "./models": None,
    "../models": None,
    "zoo:maths": None,
}


def card(parents, mergekit=True):
    layer = Layer("linear", tuple(Source(name, knobs={"weight": 1.0}) for name in parents))
    recipe = Recipe(parents[0], {"model.layers": (layer,)}, layer, layer, dtype="float32")
    events = []
    for number, name in enumerate(parents):
        events += [asked(number, name), told(number, scores(number))]
    history = History(events)
    objectives = [Objective("zoo_l2_maths", "exact_match")]
    text = model_card(
        parse(SMALL, "search.yaml"),
        history,
        history.candidates[-1],
        recipe,
        objectives,
        mergekit=mergekit,
    )
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


@pytest.mark.parametrize("reference", PARENTS)
def test_base_models_are_hub_ids_alone(reference):
    metadata, _ = card([reference])
    expected = PARENTS[reference]
    assert metadata.get("base_model") == (None if expected is None else [expected])
    assert ("base_model_relation" in metadata) == (expected is not None)


def test_one_base_model_of_two_adapters_is_named_once():
    metadata, _ = card(["org/code+org/one", "org/code+org/two", "org/code@main"])
    assert metadata["base_model"] == ["org/code"]


def test_no_path_of_this_machine_is_published():
    _, body = card([name for name in PARENTS if not name.startswith(".")])
    assert "/home" not in body
    assert "- `org/code+json`" in body
    assert "- `run:first`" in body
    assert "| mine | " in body


def test_names_tell_parents_apart():
    names = short_names(["/a/x/model", "/b/y/model", "run:/c/model", "org/model"])
    assert names == {
        "/a/x/model": "x/model",
        "/b/y/model": "y/model",
        "run:/c/model": "run:c/model",
        "org/model": "org/model",
    }


@pytest.mark.parametrize("mergekit", [True, False])
def test_mergekit_is_named_where_its_file_is(mergekit):
    metadata, body = card(["org/maths"], mergekit)
    assert ("mergekit" in metadata["tags"]) == mergekit
    assert ("mergekit_config.yml" in body) == mergekit


def test_an_export_that_mergekit_cannot_express_promises_no_file(tmp_path):
    """The embeddings come from another parent than the first block; mergekit has no way for it."""
    space = {
        "kind": "dataflow",
        "host": "zoo:language",
        "outside": {"embeddings": "zoo:maths", "head": "zoo:language"},
    }
    problem = prepare(load(write_search(tmp_path, space=space, base=None)), tmp_path)
    run = RunFolder.create(tmp_path / "run", freeze(problem))
    genome = [gene.start for gene in problem.space.genes]
    recipe = problem.space.decode(tuple(genome))
    event = asked(0, genome=genome) | {"digest": recipe.digest}
    with run.journal_path.open("ab") as file:
        file.write(encode(event) + encode(told(0, scores(5))))
    export_candidate(run, tmp_path / "model", "0", None, "5GB")
    written = {item.name for item in (tmp_path / "model").iterdir()}
    text = (tmp_path / "model" / "README.md").read_text()
    assert "mergekit_config.yml" not in written
    assert "mergekit" not in text
    assert "evomerge_recipe.yaml" in written
