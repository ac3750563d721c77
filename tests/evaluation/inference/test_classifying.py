"""Texts are classified as transformers does it with one text at a time."""

import inspect

import pytest
import tiny
import torch
import transformers

from evomerge.errors import CandidateError
from evomerge.evaluation.tasks.classifiers import Input, batches_of, classify
from evomerge.merging.backend import load, tokenizer_of
from evomerge.models.checkpoint import Checkpoint


def words(count, step=1):
    return " ".join(f"w{(i * step) % 44}" for i in range(count))


TEXTS = [
    *(Input((words(1 + 3 * i % 17, i),)) for i in range(12)),
    Input((words(200),)),
    Input(("w4 <pad> w5 <eos>",)),
    *(Input((words(i, 3), words(9 - i, 5))) for i in range(1, 6)),
]


def opened(folder):
    checkpoint = Checkpoint.open(folder, "model")
    return load(checkpoint, "cpu", causal=False), tokenizer_of(checkpoint)


def classified(model, tokenizer, texts, size="auto"):
    return classify(model, batches_of(model, tokenizer, texts, size))


CASES = {
    **{name: {"architecture": name} for name in ("bert", "roberta", "llama", "gpt2")},
    "no padding": {"architecture": "llama", "pad_token_id": None},
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers_one_by_one(case, tmp_path):
    folder = tiny.make_classifier(tmp_path / "a", labels=["a", "b", "c"], **CASES[case])
    found = classified(*opened(folder), TEXTS)
    kind = transformers.AutoModelForSequenceClassification
    with tiny.quiet():
        model = kind.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    known = inspect.signature(model.forward).parameters
    for item in TEXTS:
        limits = {"truncation": True, "max_length": 64}
        tokens = tokenizer(*item.texts, return_tensors="pt", **limits)
        with torch.no_grad():
            theirs = model(**{key: value for key, value in tokens.items() if key in known}).logits
        torch.testing.assert_close(found[item], theirs[0], atol=1e-5, rtol=1e-5)
    assert len({int(row.argmax()) for row in found.values()}) > 1


def test_the_size_of_batches_changes_only_rounding_and_calls_change_nothing(tmp_path):
    model, tokenizer = opened(tiny.make_classifier(tmp_path / "a"))
    first = classified(model, tokenizer, TEXTS)
    for item, row in classified(model, tokenizer, reversed(TEXTS), 1).items():
        torch.testing.assert_close(row, first[item], atol=1e-5, rtol=1e-5)
    again = classified(model, tokenizer, TEXTS * 2)
    assert all(torch.equal(row, again[item]) for item, row in first.items())


def test_logits_that_are_not_finite_are_a_failure_of_the_candidate(tmp_path):
    model, tokenizer = opened(tiny.make_classifier(tmp_path / "a"))
    with torch.no_grad():
        model.classifier.bias.fill_(torch.nan)
    with pytest.raises(CandidateError, match="logits are not finite"):
        classified(model, tokenizer, TEXTS)
