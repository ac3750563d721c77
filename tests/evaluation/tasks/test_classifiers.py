"""Classifiers and reward models are run, and scored on rows of a file, as transformers does it."""

import inspect
import json

import numpy as np
import pytest
import tiny
import torch
import transformers
from sklearn.metrics import f1_score

from evomerge.errors import CandidateError
from evomerge.evaluation.objectives import KINDS
from evomerge.evaluation.tasks.classifiers import batches_of, classify
from evomerge.merging.backend import load, tokenizer_of
from evomerge.models.checkpoint import Checkpoint

LABELS = ["red", "green", "blue"]


def words(*numbers):
    return " ".join(f"w{number % 44}" for number in numbers)


def opened(folder):
    checkpoint = Checkpoint.open(folder, "model")
    return load(checkpoint, "cpu", causal=False), tokenizer_of(checkpoint)


def objective_of(kind, folder, rows):
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return KINDS.get(kind).load(kind, str(file))


def scored(folder, objective):
    """Return the scores of the model in a folder on all documents."""
    found = objective.measure(*opened(folder), range(objective.task.documents))
    return {metric: objective.aggregate(metric, values) for metric, values in found.items()}


TEXTS = [
    {"text": words(i, 3 * i), "label": LABELS[i * i % 3] if i % 2 else i % 3} for i in range(30)
]
PAIRS = [{"text": words(i), "text_pair": words(i * i), "label": i % 3} for i in range(20)]
CHOSEN = [{"chosen": words(i, 7 * i), "rejected": words(5, i * i % 40)} for i in range(30)]


@pytest.mark.parametrize("rows", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_labels_of_texts_are_those_of_the_pipeline(rows, tmp_path):
    model = tiny.make_classifier(tmp_path / "a", labels=LABELS)
    found = scored(model, objective := objective_of("labels", tmp_path, rows))
    with tiny.quiet():
        pipeline = transformers.pipeline("text-classification", model=str(model), device="cpu")
        inputs = [{key: row[key] for key in ("text", "text_pair") if key in row} for row in rows]
        theirs = [pipeline(item)["label"] for item in inputs]
    given = (row["label"] for row in rows)
    right = [label if isinstance(label, str) else LABELS[label] for label in given]
    assert found["accuracy"] == np.mean([a == b for a, b in zip(theirs, right, strict=True)])
    assert found["f1"] == pytest.approx(f1_score(right, theirs, average="macro"), abs=1e-12)
    assert len(set(theirs)) > 1 and found["f1"] != found["accuracy"]
    shown = [objective.example("a", number, {}) for number in range(len(rows))]
    assert [(item.answer, item.target) for item in shown] == [*zip(theirs, right, strict=True)]


def said(role, text):
    return [{"role": role, "content": text}]


CHATS = [{key: said("assistant", text) for key, text in row.items()} for row in CHOSEN]
FORMS = {
    "texts": CHOSEN,
    "with a prompt": [{"prompt": "w9 ", **row} for row in CHOSEN],
    "messages": [{"prompt": said("user", "w1"), **row} for row in CHATS],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_chosen_answer_has_the_higher_score(form, tmp_path):
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    folder = tiny.make_classifier(tmp_path / "a", "llama", ["score"], template=template)
    rows = FORMS[form]
    objective = objective_of("pairwise", tmp_path, [*rows, dict(rows[0])])
    found = scored(folder, objective)
    with tiny.quiet():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def score(row, key):
        if form == "messages":
            messages = [*row["prompt"], *row[key]]
            tokens = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
        else:
            tokens = tokenizer(row.get("prompt", "") + row[key], return_tensors="pt")
        with torch.no_grad():
            return float(model(tokens["input_ids"]).logits[0, 0])

    pairs = [(score(row, "chosen"), score(row, "rejected")) for row in [*rows, rows[0]]]
    right = [0.5 if one == other else one > other for one, other in pairs]
    assert found == {"pairwise": pytest.approx(np.mean(right), abs=1e-12)}
    assert 0.1 < found["pairwise"] < 0.9
    _, chosen, _, rejected = objective.example("a", 0, {}).answer.replace(",", "").split()
    assert (float(chosen), float(rejected)) == pytest.approx(pairs[0], rel=2e-3)


INPUTS = [
    *((words(*(i * step for step in range(1 + 3 * i % 17))),) for i in range(12)),
    (words(*range(200)),),
    ("w4 <pad> w5 <eos>",),
    *((words(*range(i)), words(*range(0, 45 - 5 * i, 5))) for i in range(1, 6)),
]


def classified(model, tokenizer, texts, size="auto"):
    return classify(model, batches_of(model, tokenizer, texts, size))


CASES = {
    **{name: {"architecture": name} for name in ("bert", "roberta", "llama", "gpt2")},
    "no padding": {"architecture": "llama", "pad_token_id": None},
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers_one_by_one(case, tmp_path):
    folder = tiny.make_classifier(tmp_path / "a", labels=["a", "b", "c"], **CASES[case])
    found = classified(*opened(folder), INPUTS)
    for item, row in classified(*opened(folder), reversed(INPUTS), 1).items():
        torch.testing.assert_close(row, found[item], atol=1e-5, rtol=1e-5)
    kind = transformers.AutoModelForSequenceClassification
    with tiny.quiet():
        model = kind.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    known = inspect.signature(model.forward).parameters
    for item in INPUTS:
        limits = {"truncation": True, "max_length": 64}
        tokens = tokenizer(*item, return_tensors="pt", **limits)
        with torch.no_grad():
            theirs = model(**{key: value for key, value in tokens.items() if key in known}).logits
        torch.testing.assert_close(found[item], theirs[0], atol=1e-5, rtol=1e-5)
    assert len({int(row.argmax()) for row in found.values()}) > 1


def test_logits_that_are_not_finite_are_a_failure_of_the_candidate(tmp_path):
    model, tokenizer = opened(tiny.make_classifier(tmp_path / "a"))
    with torch.no_grad():
        model.classifier.bias.fill_(torch.nan)
    with pytest.raises(CandidateError, match="logits are not finite"):
        classified(model, tokenizer, INPUTS)
