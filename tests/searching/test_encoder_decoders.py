"""Searches over encoder-decoders: what is merged, and what is said of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import small_models
import tiny
import torch
import two_stacks
from search_run import searched
from stock_scores import by_library
from two_stacks import FAMILIES

import evomerge
from evomerge.config.schema import load, parse
from evomerge.merging.writer import write_model
from evomerge.models.references import open_parent
from evomerge.problem.parents import absolute_config, open_parents
from evomerge.problem.resolve import make_space
from evomerge.problem.runs import prepare

FUNCTION = """
import torch

def score(model, tokenizer, documents):
    return [float(number % 2) for number in documents]

score.documents = 30
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("tasks", "t5-one", "t5-two", "bart-one", "bart-two"):
        small_models.make(folder, name)
    return folder


def write(folder: Path, *parents: str, **changes: Any) -> Path:
    return small_models.write_tiny(folder, parents, **changes)


def spaces(folder: Path, family: str, **space: Any) -> tuple[Any, dict[str, Any]]:
    data = {
        "parents": [str(folder / "a"), str(folder / "b")],
        "dtype": "float32",
        "space": {"method": "linear", **space},
        "objectives": [{"task": "any:function", "metric": "score"}],
    }
    config = absolute_config(parse(data, "search.yaml"), folder)
    checkpoints, _ = open_parents(config, folder)
    return make_space(config, checkpoints), checkpoints


@pytest.mark.parametrize("family", FAMILIES)
def test_a_linear_merge_with_equal_weights_is_the_average_of_all_tensors(family, tmp_path):
    for seed, name in enumerate("ab"):
        two_stacks.make(tmp_path / name, family, seed)
    space, checkpoints = spaces(tmp_path, family, groups=2)
    assert len(space.genes) == 2 * (2 + 2 + 2)
    baselines = space.baselines()
    made = {
        "genes": (space.decode((0.5,) * len(space.genes)), {"a": 0.5, "b": 0.5}),
        "uniform": (baselines["uniform"], {"a": 0.5, "b": 0.5}),
        "alone": (baselines[str(tmp_path / "b")], {"b": 1.0}),
    }
    parents = {name: two_stacks.load(tmp_path / name).state_dict() for name in "ab"}
    for name, (recipe, shares) in made.items():
        write_model(recipe, checkpoints, tmp_path / name)
        for tensor, found in two_stacks.load(tmp_path / name).state_dict().items():
            wanted = sum(share * parents[parent][tensor] for parent, share in shares.items())
            torch.testing.assert_close(found, wanted, msg=f"{name}: {tensor}")


def test_a_path_is_one_through_the_decoder(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "two_judges.py").write_text(FUNCTION)
    monkeypatch.syspath_prepend(tmp_path)
    parents = ("bart-one", "bart-two")
    changes: dict[str, Any] = {"objectives": [{"task": "two_judges:score", "metric": "score"}]}
    told = evomerge.validate(write(folder, *parents, **changes), trust_code=True)
    assert told["encoder_decoder"] == "2 layers of the encoder, 3 of the decoder; all are merged"
    changes["space"] = {"kind": "dataflow", "variant": "swaps", "scales": 1.0}
    file = write(folder, *parents, **changes)
    told = evomerge.validate(file, trust_code=True)
    assert told["encoder_decoder"].endswith("3 of the decoder; those of the encoder are the host's")
    run = searched(file, tmp_path / "run", trust_code=True)
    (unlike,) = run.record.unlike_merges  # a parent with another encoder is scored as it is
    assert unlike == str(folder / "bart-two")


def test_a_classifier_with_two_stacks_has_the_scores_of_the_library(tmp_path: Path) -> None:
    rows = small_models.rows()["texts"]
    for row in rows[::3]:  # transformers takes no batch in which texts have one end token or two
        row["text"] += " <eos> w5"
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {"id2label": dict(enumerate(small_models.LABELS)), "label2id": {}}
    for seed, name in enumerate("ab"):
        two_stacks.make(tmp_path / name, "bart/classifier", seed, num_labels=3, encoder_layers=3)
        tiny.edit_config(tmp_path / name, **config)
    objectives = [{"classifier": "accuracy", "file": "rows.jsonl"}]
    file = write(tmp_path, "a", "b", objectives=objectives)
    for name in "ab":
        found = evomerge.evaluate(tmp_path / name, file)
        (documents,) = prepare(load(file), tmp_path).splits["test"].values()
        stock = by_library(tmp_path / name, [rows[i] for i in documents])
        assert found["classifier rows/accuracy"].value == stock["accuracy"]


def test_what_reads_the_sound_belongs_to_the_embeddings(folder: Path) -> None:
    small_models.make(folder, "whisper")
    checkpoint = open_parent(str(folder / "whisper"), folder)
    places = {name: place for name, place in checkpoint.places.items() if ".conv" in name}
    assert len(places) == 4 and set(places.values()) == {"embeddings"}
