"""What `validate`, `list parents` and model cards say that each kind of model is for."""

import warnings
from functools import partial

import pytest
import tiny
import transformers
import yaml
from huggingface_hub import metadata_load
from search_run import evomerge_json

import evomerge
from evomerge import zoo
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.parts import kind_of


def body(folder):
    with tiny.quiet():
        transformers.BertModel(tiny.CONFIGS["bert"]()).save_pretrained(folder)
    tiny.save_tokenizer(folder)


classifier, causal = partial(partial, tiny.make_classifier), partial(partial, tiny.make)

KINDS = {
    "causal language model": (tiny.make, "text-generation"),
    "causal language model that sees": (causal(architecture="llava"), "image-text-to-text"),
    "encoder-decoder": (causal(architecture="t5"), "text-generation"),
    "masked language model": (causal(architecture="bert"), "fill-mask"),
    "encoder": (body, "feature-extraction"),
    "sentence encoder": (tiny.make_encoder, "sentence-similarity"),
    "classifier of texts": (classifier(labels=["bad", "good"]), "text-classification"),
    "classifier of tokens": (classifier(labels="ab", head="Token"), "token-classification"),
    "reward model": (classifier(labels=["score"], architecture="llama"), "text-classification"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_of_a_merge_says_what_it_is_for(kind, tmp_path):
    encodes = kind == "sentence encoder"
    if encodes:
        pytest.importorskip("sentence_transformers")
    make, tag = KINDS[kind]
    make(tmp_path / "model")
    assert kind_of(Checkpoint.open(tmp_path / "model", "model")) == kind
    source = {"model": str(tmp_path / "model"), "parameters": {"weight": 0.5}}
    recipe = {"merge_method": "linear", "models": [source]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evomerge.merge(tmp_path / "recipe.yaml", tmp_path / "out")
    card = metadata_load(tmp_path / "out" / "README.md")
    library = "sentence-transformers" if encodes else "transformers"
    assert card is not None and (card["pipeline_tag"], card["library_name"]) == (tag, library)
    assert kind_of(Checkpoint.open(tmp_path / "out", "out")) == kind


def test_parents_are_listed_with_what_they_are_for(tmp_path):
    rows = evomerge_json("list", "parents")
    assert [row["name"] for row in rows] == [f"zoo:{name}" for name in zoo.names()]
    assert {row["kind"] for row in rows} == {"causal language model"}
    tiny.make_classifier(tmp_path / "one", "llama", ["score"])
    tiny.make(tmp_path / "chat", "llama", seed=1)
    lines = (f'{{"chosen": "w1 w{i}", "rejected": "w2 w{i}"}}\n' for i in range(40))
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    search = {"parents": ["one", "chat"], "dtype": "float32"}
    search["space"] = {"kind": "parameters", "method": "linear", "knobs": {"weight": [0, 1]}}
    search["objectives"] = [{"classifier": "pairwise", "file": "rows.jsonl"}]
    search["evaluation"] = {"search": {"documents": 20}, "validation": {"documents": 10}}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(search))
    told = evomerge.validate(tmp_path / "search.yaml")["kinds"]
    kinds = {"one": "reward model", "chat": "causal language model"}
    assert told == {str(tmp_path / name): kind for name, kind in kinds.items()}
