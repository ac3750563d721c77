"""What `validate`, `list parents` and model cards say that each kind of model is for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
import transformers
import yaml
from huggingface_hub import metadata_load
from search_run import evomerge_json

import evomerge
from evomerge import zoo
from evomerge.export.metadata import task_of
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.kinds import kind_of


class Kind(NamedTuple):
    make: Callable[[Path], Any]
    words: str
    tag: str
    library: str = "transformers"


def body(folder: Path) -> None:
    with tiny.quiet():
        transformers.BertModel(tiny.CONFIGS["bert"]()).save_pretrained(folder)
    tiny.save_tokenizer(folder)


def classifier(*labels: str, **how: Any) -> Callable[[Path], Any]:
    return lambda folder: tiny.make_classifier(folder, labels=labels, **how)


KINDS = {
    "causal": Kind(tiny.make, "causal language model", "text-generation"),
    "sees": Kind(
        lambda folder: tiny.make(folder, "llava"),
        "causal language model that sees",
        "image-text-to-text",
    ),
    "masked": Kind(lambda folder: tiny.make(folder, "bert"), "masked language model", "fill-mask"),
    "encoder": Kind(body, "encoder", "feature-extraction"),
    "sentences": Kind(
        tiny.make_encoder, "sentence encoder", "sentence-similarity", "sentence-transformers"
    ),
    "texts": Kind(classifier("bad", "good"), "classifier of texts", "text-classification"),
    "tokens": Kind(
        classifier("a", "b", head="Token"), "classifier of tokens", "token-classification"
    ),
    "reward": Kind(
        classifier("score", architecture="llama"), "reward model", "text-classification"
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_card_of_a_merge_says_what_it_is_for(name: str, tmp_path: Path) -> None:
    if name == "sentences":
        pytest.importorskip("sentence_transformers")
    kind = KINDS[name]
    kind.make(tmp_path / "model")
    assert kind_of(Checkpoint.open(tmp_path / "model", "model")) == kind.words
    recipe = {
        "merge_method": "linear",
        "models": [{"model": str(tmp_path / "model"), "parameters": {"weight": 0.5}}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evomerge.merge(tmp_path / "recipe.yaml", tmp_path / "out")
    card = metadata_load(tmp_path / "out" / "README.md")
    assert card is not None
    assert (card["pipeline_tag"], card["library_name"]) == (kind.tag, kind.library)
    assert kind_of(Checkpoint.open(tmp_path / "out", "out")) == kind.words


def test_an_encoder_decoder_and_a_model_that_hears_are_known(tmp_path: Path) -> None:
    t5 = Checkpoint.open(tiny.make(tmp_path / "t5", "t5"), "t5")
    assert kind_of(t5) == "encoder-decoder"
    hears = {"architectures": ["Qwen2AudioForConditionalGeneration"], "audio_config": {}}
    assert task_of(Checkpoint("audio", tmp_path, hears, {})) == "audio-text-to-text"


def test_parents_are_listed_with_what_they_are_for(tmp_path: Path) -> None:
    rows = evomerge_json("list", "parents")
    assert [row["name"] for row in rows] == [f"zoo:{name}" for name in zoo.names()]
    assert {row["kind"] for row in rows} == {"causal language model"}
    tiny.make_classifier(tmp_path / "one", "llama", ["score"])
    tiny.make(tmp_path / "chat", "llama", seed=1)
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(f'{{"chosen": "w1 w{i}", "rejected": "w2 w{i}"}}' for i in range(40))
    )
    search = {
        "parents": ["one", "chat"],
        "dtype": "float32",
        "space": {"kind": "parameters", "method": "linear", "knobs": {"weight": [0, 1]}},
        "objectives": [{"classifier": "pairwise", "file": "rows.jsonl"}],
        "evaluation": {"search": {"documents": 20}, "validation": {"documents": 10}},
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(search))
    told = evomerge.validate(tmp_path / "search.yaml")["kinds"]
    assert told == {
        str(tmp_path / "one"): "reward model",
        str(tmp_path / "chat"): "causal language model",
    }
