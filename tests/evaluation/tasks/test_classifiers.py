"""Objectives of classifiers and reward models: their metrics, and sentences about wrong files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from sklearn.metrics import f1_score

from evomerge.evaluation.tasks.files import load_objective
from evomerge.evaluation.tasks.rows import RowsObjective
from evomerge.merging.backend import load, tokenizer_of
from evomerge.models.checkpoint import Checkpoint

LABELS = ["red", "green", "blue"]


def words(*numbers: int) -> str:
    return " ".join(f"w{number % 44}" for number in numbers)


TEXTS: list[dict[str, Any]] = [
    {"text": words(i, 3 * i), "label": LABELS[i * i % 3] if i % 2 else i % 3} for i in range(30)
]
PAIRS = [{"text": words(i), "text_pair": words(i * i), "label": i % 3} for i in range(20)]
CHOSEN = [{"chosen": words(i, 7 * i), "rejected": words(5, i * i % 40)} for i in range(30)]


def objective_of(kind: str, folder: Path, rows: list[Any]) -> RowsObjective:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return load_objective(kind, str(file))


def scored(model: Path, objective: RowsObjective) -> dict[str, float]:
    """Return the scores of the model in a folder on all documents."""
    opened = Checkpoint.open(model, "a")
    loaded, tokenizer = load(opened, "cpu", causal=False), tokenizer_of(opened)
    found = objective(loaded, tokenizer, range(objective.info.documents))
    return {metric: objective.aggregate(metric, values) for metric, values in found.items()}


def labels(model: Path, rows: list[Any]) -> list[str]:
    """Return the labels that the library's pipeline finds."""
    with tiny.quiet():
        pipeline = transformers.pipeline("text-classification", model=str(model), device="cpu")
        inputs = [{key: row[key] for key in ("text", "text_pair") if key in row} for row in rows]
        return [pipeline(item)["label"] for item in inputs]


@pytest.mark.parametrize("rows", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_labels_of_texts_are_those_of_the_pipeline(rows: list[Any], tmp_path: Path) -> None:
    model = tiny.make_classifier(tmp_path / "a", labels=LABELS)
    found = scored(model, objective_of("labels", tmp_path, rows))
    theirs = labels(model, rows)
    right = [
        row["label"] if isinstance(row["label"], str) else LABELS[row["label"]] for row in rows
    ]
    assert found["accuracy"] == np.mean([a == b for a, b in zip(theirs, right, strict=True)])
    assert found["f1"] == pytest.approx(f1_score(right, theirs, average="macro"), abs=1e-12)
    assert len(set(theirs)) > 1 and found["f1"] != found["accuracy"]


FORMS: dict[str, list[Any]] = {
    "texts": CHOSEN,
    "with a prompt": [{"prompt": "w9 ", **row} for row in CHOSEN],
    "messages": [
        {
            "prompt": [{"role": "user", "content": "w1"}],
            **{key: [{"role": "assistant", "content": row[key]}] for key in ("chosen", "rejected")},
        }
        for row in CHOSEN
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_chosen_answer_has_the_higher_score(form: str, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    folder = tiny.make_classifier(tmp_path / "a", "llama", ["score"], template=template)
    rows = FORMS[form]
    found = scored(folder, objective_of("pairwise", tmp_path, [*rows, dict(rows[0])]))
    with tiny.quiet():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def score(row: Any, key: str) -> float:
        if form == "messages":
            messages = [*row["prompt"], *row[key]]
            tokens = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
        else:
            tokens = tokenizer(row.get("prompt", "") + row[key], return_tensors="pt")
        with torch.no_grad():
            return float(model(tokens["input_ids"]).logits[0, 0])

    right = [
        0.5 if row["chosen"] == row["rejected"] else score(row, "chosen") > score(row, "rejected")
        for row in [*rows, rows[0]]
    ]
    assert found == {"pairwise": pytest.approx(np.mean(right), abs=1e-12)}
    assert 0.1 < found["pairwise"] < 0.9


def test_a_prompt_is_a_text_of_its_own_before_a_separator(tmp_path: Path) -> None:
    folder = tiny.make_classifier(tmp_path / "a", labels=["score"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"sep_token": "<eos>"})
    row = {"prompt": "w1", "chosen": "w2", "rejected": "w3"}
    pairs = objective_of("pairwise", tmp_path, [row])
    read = [item.texts for item in pairs._inputs(pairs.rows[0], tokenizer)]
    assert read == [("w1", "w2"), ("w1", "w3")]
