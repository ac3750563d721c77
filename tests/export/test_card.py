"""The model card: metadata that huggingface_hub reads, nothing guessed, no path of this machine."""

import html
import re
import shutil
from pathlib import Path

import peft
import pytest
import tiny
import yaml
from huggingface_hub import ModelCard, metadata_load
from merges import mix
from run_folders import KEY, append, asked, scores, told
from search_run import SMALL, write_search

import evomerge
from evomerge import zoo
from evomerge.__main__ import run as call
from evomerge.config.record import Record
from evomerge.config.schema import load, parse
from evomerge.export.card import Merge, describe_parents, merge_card, search_card, task_of
from evomerge.export.checkpoint import merge_recipe
from evomerge.models.checkpoint import Checkpoint
from evomerge.problem.problem import record_of
from evomerge.problem.runs import prepare
from evomerge.recipe import Recipe
from evomerge.report.page import page
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.logbook import Logbook
from evomerge.run.ranking import WeightedSum
from evomerge.scores import Objective, Scores
from evomerge.searching.session import Session

OBJECTIVES = [Objective("zoo_l2_maths", "exact_match")]
HUB = {
    "org/maths": ["org/maths"],
    "org/language@v1.0": ["org/language"],
    "org/code+/home/me/adapters/json": ["org/code"],
    "org/chat@main+org/polite": ["org/chat"],
}
LOCAL = [
    *("/home/me/models/mine", "/home/me/models/mine+org/adapter", "/home/you/models/mine"),
    *("./models", "zoo:maths", "local/name"),
]


def parent(folder, reference, readme=None):
    """A checkpoint without weights; that of a Hub id is where the Hub's client puts it."""
    place = folder / reference.replace("/", "_").replace(":", "_")
    model, _, adapter = reference.partition("+")
    if reference in HUB:
        place = folder / f"models--{model.partition('@')[0].replace('/', '--')}/snapshots/0123"
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text("{}")
    if readme is not None:
        (place / "README.md").write_text(readme)
    added = None
    if adapter:
        hub = not adapter.startswith("/")
        added = folder / (f"models--{adapter.replace('/', '--')}/snapshots/4567" if hub else "json")
        added.mkdir(parents=True, exist_ok=True)
    return Checkpoint(reference, place, {}, {}, added)


def merge_of(checkpoints, mergekit=True):
    inside, outside = (mix(dict.fromkeys(checkpoints, 1.0), block) for block in (0, None))
    host = next(iter(checkpoints))
    recipe = Recipe(host, {"model.layers": [inside]}, outside, outside, dtype="float32")
    task = task_of(checkpoints[host])
    return Merge(recipe, describe_parents(checkpoints), mergekit, task)


def opened(folder, references):
    return {reference: parent(folder, reference) for reference in references}


def front(**metadata):
    return f"---\n{yaml.safe_dump(metadata)}---\n# A parent\n"


def searched(merge, record=None, best=20, last=None):
    """The card of the last candidate of a run with a candidate for each parent and one more."""
    rows = [(name, scores(number)) for number, name in enumerate(merge.parents)]
    events = []
    for number, (label, outcome) in enumerate([*rows, (None, scores(best))]):
        events += [asked(number, label, genome=None if label else [1.0]), told(number, outcome)]
    test = last or Scores({"zoo_l2_maths": (5, 6)}, {KEY: (1.0, 0.0)}, {KEY: 0.5})
    history = History([*events, {**told(len(rows), test), "event": "score", "split": "test"}])
    record, ranking = record or Record(config=parse(SMALL, "search.yaml")), WeightedSum(OBJECTIVES)
    return search_card(merge, record, history, history.candidates[-1], ranking)


def read(texts):
    """Metadata and text of a card, as huggingface_hub reads them."""
    card = ModelCard(texts["README.md"])
    return card.data.to_dict(), card.text


@pytest.mark.parametrize("mergekit", [True, False])
def test_the_metadata_are_what_huggingface_hub_reads(tmp_path, mergekit):
    merge = merge_of(opened(tmp_path, HUB), mergekit)
    for texts in (searched(merge), merge_card(merge, {})):
        metadata, text = read(texts)
        assert metadata["library_name"] == "transformers"
        assert metadata["pipeline_tag"] == "text-generation"
        assert metadata["tags"] == ["merge", "evomerge", *(["mergekit"] if mergekit else [])]
        assert ("mergekit_config.yml" in text) == mergekit
        assert re.match(r"\s*# merge-[0-9a-f]{8}\n", text)
        (tmp_path / "README.md").write_text(texts["README.md"])
        assert metadata_load(tmp_path / "README.md") == metadata
        assert str(ModelCard(texts["README.md"])) == texts["README.md"]  # unchanged by their tools


@pytest.mark.parametrize("reference", [*HUB, *LOCAL])
def test_base_models_are_models_of_the_hub_alone(tmp_path, reference):
    metadata, _ = read(searched(merge_of(opened(tmp_path, [reference]))))
    assert metadata.get("base_model") == HUB.get(reference)
    assert ("base_model_relation" in metadata) == (reference in HUB)


def test_no_path_of_this_machine_and_no_user_is_published_and_names_differ(tmp_path):
    config = parse(
        SMALL
        | {"parents": [*HUB, *LOCAL], "base": "/home/me/models/mine"}
        | {"evaluation": {"include": ["/home/me/tasks", "../me/tasks"]}}
        | {"optimizer": {"start": ["run:/home/me/runs/mine", "/home/me/start.yaml"]}},
        "search.yaml",
    )
    merge = merge_of(opened(tmp_path, [*HUB, *LOCAL]))
    for texts in (searched(merge, Record(config=config)), merge_card(merge, {"torch": "2.9"})):
        for text in texts.values():
            assert "/home" not in text and str(tmp_path) not in text
            assert not re.search(r"\b(me|you)\b/", text)
        _, body = read(texts)
        for name in ("org/code+json", "mine", "mine+org/adapter", "mine (2)", "name"):
            assert re.search(rf"- [A-Z]: `{re.escape(name)}`\n", body)
    first = parent(tmp_path, "org/maths")
    both = {name: Checkpoint(name, first.folder, {}, {}) for name in ("org/maths", "org/maths@v2")}
    assert read(searched(merge_of(both)))[0]["base_model"] == ["org/maths"], "named once"


OWN = {"license": "other", "license_name": "own-1.0", "license_link": "https://example.org/own"}
LICENCES = {
    "one parent": ([front(license="mit")], {"license": "mit"}),
    "the same": ([front(license="MIT"), front(license=["mit"])], {"license": "mit"}),
    "a licence of their own": ([front(**OWN), front(**OWN)], OWN),
    "different": ([front(license="mit"), front(license="apache-2.0")], {}),
    "one has no card": ([front(license="mit"), None], {}),
    "one does not say it": ([front(license="mit"), front(tags=["merge"])], {}),
    "one card is damaged": ([front(license="mit"), "---\nlicense: [mit\n---\n"], {}),
    "others without a name": ([front(license="other"), front(license="other")], {}),
    "others": ([front(**OWN), front(**OWN | {"license_name": "own-2.0"})], {}),
    "several": ([front(license=["mit", "gpl-3.0"]), front(license=["mit", "gpl-3.0"])], {}),
}


@pytest.mark.parametrize("case", LICENCES)
def test_a_licence_that_all_parents_name_is_inherited_and_none_is_guessed(tmp_path, case):
    cards, expected = LICENCES[case]
    names = [f"/models/m{number}" for number in range(len(cards))]
    parents = {name: parent(tmp_path, name, card) for name, card in zip(names, cards, strict=True)}
    metadata, body = read(searched(merge_of(parents)))
    assert {key: value for key, value in metadata.items() if key.startswith("license")} == expected
    assert ("**This card names no licence**" in body) == (not expected)


def test_an_adapter_has_a_licence_of_its_own(tmp_path):
    reference = "org/chat@main+org/polite"
    checkpoint = parent(tmp_path, reference, front(license="mit"))
    assert "license" not in read(searched(merge_of({reference: checkpoint})))[0]
    (checkpoint.adapter / "README.md").write_text(front(license="mit"))
    assert read(searched(merge_of({reference: checkpoint})))[0]["license"] == "mit"


RESOLVED = {
    "datasets": {
        "search": {"zoo_l2_maths": {"id": "org/sums", "config": "ja", "split": "train"}},
        "test": {"zoo_l2_maths": {"id": "org/sums", "config": "ja", "split": "held_out"}},
    },
    "versions": {"python": "3.11.7", "torch": "2.9"},
}


def test_the_winner_has_its_test_scores_and_their_data_set(tmp_path):
    record = Record(config=parse(SMALL, "search.yaml"), **RESOLVED)
    merge = merge_of(opened(tmp_path, HUB))
    metadata, body = read(searched(merge, record))
    (model,) = metadata["model-index"]
    (result,) = model["results"]
    assert model["name"] == merge.name
    assert result["task"] == {"type": "text-generation", "name": "zoo_l2_maths"}
    wanted = {"name": "zoo_l2_maths", "type": "org/sums", "config": "ja", "split": "held_out"}
    assert result["dataset"] == wanted
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("exact_match", 0.5)
    assert "2 test documents" in metric["name"]
    assert "Made with python 3.11.7, torch 2.9." in body
    broken = Scores({"zoo_l2_maths": (5,)}, {KEY: (1.0,)}, {KEY: float("nan")})
    assert "model-index" not in read(searched(merge, last=broken))[0]


def test_only_the_winner_as_it_was_scored_has_scores(tmp_path):
    merge = merge_of(opened(tmp_path, HUB))
    metadata, body = read(searched(merge, best=0))  # a parent is better
    assert "model-index" not in metadata
    assert "not the winner of its run. Its scores on search and validation documents are" in body
    assert re.search(rf"\| {KEY} in % \| candidate \d \| .*\d\.\d \[.*\] \|", body)
    bfloat16 = parse(SMALL | {"dtype": "bfloat16"}, "search.yaml")
    metadata, body = read(searched(merge, Record(config=bfloat16)))
    assert "model-index" not in metadata
    assert "Written in float32; the scores are those of the bfloat16 weights." in body
    assert re.search(rf"\| {KEY} in % \| searched \| 50.0 \[.*\] \| - \| 83.3 \[.*\] \|", body)


def test_a_merge_that_mergekit_cannot_express_says_why_everywhere(tmp_path, capsys):
    """The embeddings come from another parent than the first block; mergekit has no way for it."""
    outside = {"embeddings": "zoo:maths", "head": "zoo:language"}
    space = {"kind": "dataflow", "host": "zoo:language", "outside": outside}
    problem = prepare(load(write_search(tmp_path, space=space, base=None)), tmp_path)
    run = RunFolder.create(tmp_path / "run", "{}", record_of(problem).to_json())
    genome = [gene.start for gene in problem.space.genes]
    digest = problem.space.decode(tuple(genome)).digest
    append(run, [asked(0, genome=genome) | {"digest": digest}, told(0, scores(5))])
    run.write("best.mergekit.yaml", "of an earlier best merge")
    with run.writing() as journal:
        logbook = Logbook(run, journal, ())
        Session(problem, logbook).publish([], logbook.history.candidates[0])
    assert not (run.path / "best.mergekit.yaml").exists()
    reason, model = run.why_not_in_mergekit, tmp_path / "model"
    assert reason.startswith("`embeddings` has other parents than the first block")
    for arguments in (
        ["results", str(run.path)],
        ["results", str(run.path), "--json"],
        ["export", str(run.path), "--out", str(model)],
    ):
        assert call(arguments) == 0
        captured = capsys.readouterr()
        assert reason in " ".join((captured.out + captured.err).split())
    assert reason in html.unescape(page(run))
    written, card = {item.name for item in model.iterdir()}, (model / "README.md").read_text()
    assert {"evomerge_recipe.yaml", "recipe.svg"} <= written
    assert "mergekit_config.yml" not in written and "mergekit" not in card
    assert "Path through the layers" in card


def test_the_command_of_a_card_works_in_any_folder(tmp_path, monkeypatch):
    """The paths of the merged file start in its folder; those of the recipe that is written do not.

    With a relative path, another folder could have another model of the same name.
    """
    home, away = tmp_path / "home", tmp_path / "away"
    for name in ("maths", "facts"):
        shutil.copytree(zoo.path(name), home / name)
        (home / name / "README.md").write_text(front(license="mit"))
        shutil.copytree(zoo.path("language"), away / name)
    soup = {"models": [{"model": "./maths"}, {"model": "facts"}], "merge_method": "linear"}
    soup |= {"parameters": {"weight": 0.5}, "dtype": "float32"}
    tokens = {"source": "union", "tokens": {"<eos>": {"source": "./maths", "force": True}}}
    for name, data in {"soup": soup, "tokens": {**soup, "tokenizer": tokens}}.items():
        config, model = f"{yaml.safe_dump(data)}# mine\n", home / f"{name}-model"
        (home / f"{name}.yaml").write_text(config)
        monkeypatch.chdir(home)
        merge_recipe(Path(f"{name}.yaml"), model, "8GB", "5GB")
        assert (model / "mergekit_config.yml").read_text() == config
        assert not (model / "recipe.svg").exists()  # it would have one colour over the whole depth
        metadata, card = read({"README.md": (model / "README.md").read_text()})
        assert metadata["license"] == "mit" and "model-index" not in metadata
        assert str(tmp_path) not in card and "recipe.svg" not in card
        assert "evomerge merge evomerge_recipe.yaml --out MODEL_DIR" in card
        assert "In every layer: weight 0.5 of A, weight 0.5 of B.\n" in card
        monkeypatch.chdir(away)
        shutil.copy(model / "evomerge_recipe.yaml", away)
        merge_recipe(Path("evomerge_recipe.yaml"), away / f"{name}-model", "8GB", "5GB")
        folders = (model, away / f"{name}-model")
        assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 1, name


@pytest.mark.parametrize("adapter", [False, True])
def test_the_card_has_the_command_with_which_mergekit_builds_its_file(adapter, tmp_path):
    """mergekit stops without `--lora-merge-cache` where a parent has an adapter."""
    references = []
    for seed, name in enumerate("ab"):
        folder = tiny.make(tmp_path / name, "llama", seed=seed)
        model = peft.get_peft_model(tiny.load(folder), peft.LoraConfig(target_modules=["q_proj"]))
        model.save_pretrained(tmp_path / f"{name}-adapter")
        references.append(f"{folder}+{tmp_path}/{name}-adapter" if adapter else str(folder))
    file = tmp_path / "merge.yml"
    models = [{"model": name, "parameters": {"weight": 0.5}} for name in references]
    file.write_text(yaml.safe_dump({"merge_method": "linear", "models": models}))
    evomerge.merge(file, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    options = " --lora-merge-cache CACHE" if adapter else ""
    assert f"`mergekit-yaml mergekit_config.yml DIR{options}` builds it" in card
