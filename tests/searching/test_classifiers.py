"""Searches over classifiers and reward models whose parents differ."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import small_models
import tiny
import torch
import transformers
from safetensors.torch import load_file
from search_run import searched
from small_models import LABELS

import evomerge
from evomerge.errors import EvomergeError
from evomerge.scores import Scores

TEXTS = [{"classifier": "accuracy", "file": "rows/texts.jsonl"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parents of each kind, a chat model, and one with other labels."""
    folder = tmp_path_factory.mktemp("classifiers")
    for name in ("rows", "texts-two", "answers-two", "llama-chat", "moods"):
        small_models.make(folder, name)
    return folder


def write(folder: Path, parents: list[str], **changes: Any) -> Path:
    return small_models.write_tiny(folder, parents, **{"objectives": TEXTS} | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def head(folder: Path) -> dict[str, torch.Tensor]:
    found = weights(folder).items()
    return {name: item for name, item in found if name.startswith(("class", "score"))}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def check_stock(folder: Path) -> None:
    kind = transformers.AutoModelForSequenceClassification
    with tiny.quiet():
        _, told = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def parent_scores(run: evomerge.Run, name: str) -> tuple[int, Scores, bool]:
    """Return the number of a parent's baseline, its test scores, and whether it is itself there."""
    found = next(c for c in run.history.candidates if c.label and c.label.endswith(f"/{name}"))
    scores = found.scores("test")
    assert scores is not None
    return found.number, scores, "test" in found.as_itself


def same(model: Path, file: Path, scores: Scores) -> bool:
    found = evomerge.evaluate(model, file)
    return {key: item.value for key, item in found.items()}.items() <= scores.aggregates.items()


def test_of_other_labels_only_the_body_is_merged(folder: Path, tmp_path: Path) -> None:
    file = write(folder, ["texts-one", "moods", "texts-two"], budget={"candidates": 6})
    report = evomerge.validate(file)
    assert report["classifier"].startswith("texts with the labels red, green, blue; merged: the")
    (told,) = [line for line in report["warnings"] if "`id2label` of both" in line]
    assert "moods" in told and "good, bad" in told and "red, green, blue" in told
    run = searched(file, tmp_path / "run")
    out = run.export(tmp_path / "model", 5)
    assert equal(head(out), head(folder / "texts-one"))
    body = "bert.encoder.layer.0.attention.self.query.weight"
    assert not weights(out)[body].equal(weights(folder / "moods")[body])
    # A parent without a head for these labels is scored and exported with that of the host.
    number, scores, itself = parent_scores(run, "moods")
    borrowed = run.export(tmp_path / "moods", number)
    check_stock(borrowed)
    assert weights(borrowed)[body].equal(weights(folder / "moods")[body]) and not itself
    assert equal(head(borrowed), head(folder / "texts-one"))
    assert same(borrowed, file, scores)
    # One with a head for them is scored with its own.
    number, scores, _ = parent_scores(run, "texts-two")
    assert same(folder / "texts-two", file, scores)
    # Which head a merge has follows from its recipe, whichever parents the search has beside.
    for place in (out, borrowed, run.export(tmp_path / "two", number)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = evomerge.merge(place / "evomerge_recipe.yaml", tmp_path / f"{place.name}-again")
        assert equal(weights(place), weights(again))
    assert not (out / "mergekit_config.yml").exists()  # it would merge the heads


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_a_base_without_a_head_gives_task_vectors_of_the_body(architecture, folder, tmp_path):
    one = tiny.make_classifier(tmp_path / "one", architecture, LABELS)
    tiny.make_classifier(tmp_path / "two", architecture, LABELS, near=one, seed=1)
    with tiny.quiet():
        transformers.AutoModel.from_pretrained(one).save_pretrained(tmp_path / "base")
    small_models.write_rows(tmp_path / "rows")
    space = {"kind": "parameters", "method": "task_arithmetic", "knobs": {"weight": [0, 1.5]}}
    changes = {"base": "base", "budget": {"candidates": 4}}
    with pytest.raises(
        EvomergeError, match=r"their heads differ; name another host with `space\.host`"
    ):
        evomerge.validate(write(tmp_path, ["one", "two"], space=space, **changes))
    file = write(tmp_path, ["one", "two"], space=space | {"host": "one"}, **changes)
    out = searched(file, tmp_path / "run").export(tmp_path / "model", 3)
    check_stock(out)
    assert equal(head(out), head(one))
