"""A cross-encoder orders passages as sentence-transformers' own CrossEncoder does."""

import json

import numpy as np
import pytest
import small_models
import tiny
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

import evomerge
from evomerge.evaluation.tasks.classifiers import batches_of, classify
from evomerge.evaluation.tasks.encoders import ranking_metrics
from evomerge.evaluation.tasks.rerank import Rerank
from evomerge.merging.backend import load, tokenizer_of
from evomerge.models.checkpoint import Checkpoint


def words(*numbers):
    return " ".join(f"w{number % 44}" for number in numbers)


ROWS = [
    {
        "query": words(i, i + 2, i // 7),
        "positive": [words(i, 5), words(i, 6, *range(i % 9 + 1))][: 1 + i % 2],
        "negative": [words(number, number * i, *range(number % 5)) for number in range(20, 34)],
    }
    for i in range(1, 31)
]
"""Rows with one right passage or two, and more than ten passages."""


def stock_scores(folder, rows):
    """Return what sentence-transformers' evaluator says of a model in a folder."""
    with tiny.quiet():
        encoder = CrossEncoder(str(folder), device="cpu")
    found = CrossEncoderRerankingEvaluator(rows, write_csv=False)(encoder)
    return {"ndcg@10": found["ndcg@10"], "mrr@10": found["mrr@10"]}


def write(folder, rows):
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "rows.jsonl")


@pytest.mark.parametrize("architecture", ["bert", "roberta", "llama"])
def test_scores_are_those_of_the_cross_encoder(architecture, tmp_path):
    folder = tiny.make_classifier(tmp_path / "a", architecture, labels=["score"])
    objective = Rerank.load("rerank", write(tmp_path, ROWS))
    checkpoint = Checkpoint.open(folder, "model")
    model, tokenizer = load(checkpoint, "cpu", causal=False), tokenizer_of(checkpoint)
    pairs = [(row["query"], text) for row in ROWS for text in row["positive"] + row["negative"]]
    logits = classify(model, batches_of(model, tokenizer, pairs))
    with tiny.quiet():
        encoder = CrossEncoder(str(folder), device="cpu")
    theirs = encoder.predict(pairs, batch_size=1, activation_fn=torch.nn.Identity())
    ours = [float(logits[pair]) for pair in pairs]
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)
    measured = objective.measure(model, tokenizer, range(len(ROWS)))
    means = {metric: np.mean(values) for metric, values in measured.items()}
    stock = stock_scores(folder, ROWS)
    assert means == {metric: pytest.approx(value, abs=1e-12) for metric, value in stock.items()}
    assert 0.1 < means["mrr@10"] < 0.9 and means["mrr@10"] != means["ndcg@10"]
    shown = objective.example("a", 0, {})
    assert shown.answer in ROWS[0]["positive"] + ROWS[0]["negative"]
    assert shown.target == "\n".join(ROWS[0]["positive"])


def test_of_equal_passages_the_wrong_ones_rank_first():
    first, metrics = ranking_metrics([1.0, 1.0, 0.5], [True, False, True])
    assert first == 1
    assert metrics["mrr@10"] == 1 / 2 and metrics["recall@10"] == 1
    gain = 1 / np.log2([2, 3, 4])
    assert metrics["ndcg@10"] == pytest.approx((gain[1] + gain[2]) / (gain[0] + gain[1]))


def test_a_search_exports_a_cross_encoder_with_its_scores(tmp_path):
    """The parents are as sentence-transformers writes them, and so is the merge."""
    for seed, name in enumerate(("one", "two")):
        plain = tiny.make_classifier(tmp_path / f"plain-{name}", seed=seed, labels=["score"])
        with tiny.quiet():
            CrossEncoder(str(plain), device="cpu").save_pretrained(str(tmp_path / name))
    rows = write(tmp_path, ROWS)
    objectives = [{"kind": "rerank", "file": rows}]
    file = small_models.write_tiny(tmp_path, ["one", "two"], objectives=objectives)
    run = evomerge.search(file, run=tmp_path / "run", progress=False)
    run.export(tmp_path / "out")
    scores = run.winner.scores("test")
    (documents,) = scores.documents.values()
    stock = stock_scores(tmp_path / "out", [ROWS[i] for i in documents])
    assert scores.aggregates["rerank rows/ndcg@10"] == pytest.approx(stock["ndcg@10"], abs=1e-12)
    names = {item.name for item in (tmp_path / "out").iterdir()}
    assert {"modules.json", "config_sentence_transformers.json"} <= names
