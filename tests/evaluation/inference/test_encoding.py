"""Texts are encoded as `SentenceTransformer.encode` does it, whatever the modules are."""

import json

import numpy as np
import pytest
import tiny
import torch
import transformers
from rounding import UNIT

from evomerge.errors import CandidateError, CheckpointError
from evomerge.evaluation.tasks.encoders import TextEncoder
from evomerge.merging.backend import load, tokenizer_of
from evomerge.models.checkpoint import Checkpoint

sentence_transformers = pytest.importorskip("sentence_transformers")

TEXTS = [
    "w1 w2 w3",
    " W4  w5 ",
    "unknown words",
    "w9",
    " ".join(f"w{i}" for i in range(40)),
    "w1 w2 w3",
    *(" ".join(f"w{(i * j) % 44}" for j in range(1, 2 + i)) for i in range(12)),
]

PROMPTS = {"query": "w7 w8 ", "document": "w20 ", "other": "w30 w31 w32 "}

SBERT, ST = "sentence_bert_config.json", "config_sentence_transformers.json"
CASES = {
    "no projection": ({"dense": 0}, {}),
    "cls": ({"pooling": "cls"}, {}),
    "max": ({"pooling": "max"}, {}),
    "last token": ({"pooling": "lasttoken"}, {}),
    "weighted mean": ({"pooling": "weightedmean"}, {}),
    "two poolings": ({"pooling": ["mean", "cls"], "dense": 0}, {}),
    "prompts": ({"prompts": PROMPTS}, {}),
    "a default prompt": ({"prompts": PROMPTS, "default_prompt": "other"}, {}),
    "prompts that are not pooled": (
        {"prompts": PROMPTS, "default_prompt": "other", "include_prompt": False},
        {},
    ),
    "decoder": ({"architecture": "qwen3", "pooling": "lasttoken"}, {}),
    "encoder and decoder": ({"architecture": "t5"}, {}),
    "a length": ({"length": 10}, {SBERT: {"max_seq_length": 5}}),
    "lengths of roles": ({"length": 10}, {SBERT: {"query_length": 3, "document_length": 6}}),
    "small letters": ({"length": 10}, {SBERT: {"do_lower_case": True}}),
    "fewer numbers": ({"length": 10}, {ST: {"truncate_dim": 3}}),
    "a passage prompt": ({"length": 10}, {ST: {"prompts": {"passage": "w2 "}}}),
    "a head that is not there": (
        {"architecture": "qwen3"},
        {"config.json": {"architectures": ["Qwen3ForCausalLM"]}},
    ),
}
"""How a model is made, and what its files say then."""


def encoded(folder, role, **how):
    opened = Checkpoint.open(folder, "model")
    model = load(opened, "cpu", causal=False, modules=opened)
    return TextEncoder(**how)(model, tokenizer_of(opened), TEXTS, role).numpy()


def by_library(folder, role):
    with tiny.quiet():
        model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    encode = {"query": model.encode_query, "document": model.encode_document}.get(
        role, model.encode
    )
    return encode(TEXTS, convert_to_tensor=True).double().numpy()


def check(folder):
    for role in ("text", "query", "document"):
        ours, theirs = encoded(folder, role), by_library(folder, role)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=UNIT)
    assert abs(theirs - theirs[0]).max() > 1e-3  # texts differ


@pytest.mark.parametrize("case", CASES)
def test_embeddings_are_those_of_the_library(case, tmp_path):
    how, files = CASES[case]
    folder = tiny.make_encoder(tmp_path / "a", **how)
    for file, changes in files.items():
        data = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(data | changes))
    check(folder)


def test_a_config_may_name_the_class_with_a_head(tmp_path):
    folder = tiny.make_encoder(tmp_path / "a")
    with tiny.quiet():
        transformers.AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    tiny.edit_config(folder, architectures=["BertForMaskedLM"])
    check(folder)


def test_files_of_former_versions_are_read(tmp_path):
    folder = tiny.make_encoder(tmp_path / "a", pooling="cls")
    theirs = by_library(folder, "text")
    old = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(old))
    (folder / "3_Normalize" / "config.json").unlink()
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    modules = json.loads((folder / "modules.json").read_text())
    for item in modules:
        item["type"] = f"sentence_transformers.models.{item['type'].rpartition('.')[2]}"
    (folder / "modules.json").write_text(json.dumps(modules))
    new = tiny.make_encoder(tmp_path / "b", pooling="cls")
    np.testing.assert_allclose(encoded(folder, "text"), theirs, rtol=1e-5, atol=UNIT)
    settings = [dict(Checkpoint.open(item, "x").modules.plain()) for item in (folder, new)]
    assert settings[0] == settings[1]


def test_the_size_of_batches_changes_only_rounding_and_calls_change_nothing(tmp_path):
    folder = tiny.make_encoder(tmp_path / "a", dtype="bfloat16")
    np.testing.assert_allclose(encoded(folder, "text"), by_library(folder, "text"), atol=0.05)
    folder = tiny.make_encoder(tmp_path / "b")
    found = encoded(folder, "text")
    np.testing.assert_allclose(found, encoded(folder, "text", batch_size=1), atol=UNIT)
    assert (found == encoded(folder, "text")).all()


def test_what_cannot_be_encoded_is_one_sentence(tmp_path):
    folder = tiny.make_encoder(tmp_path / "a")
    opened = Checkpoint.open(folder, "model")
    model = load(opened, "cpu", causal=False)
    with pytest.raises(CheckpointError, match=r"no modules of sentence-transformers.*;"):
        TextEncoder()(model, tokenizer_of(opened), TEXTS)
    model = load(opened, "cpu", causal=False, modules=opened)
    with torch.no_grad():
        model.get_parameter("2_Dense.linear.bias").fill_(torch.nan)
    with pytest.raises(CandidateError, match="not finite"):
        TextEncoder()(model, tokenizer_of(opened), TEXTS)
