"""A file whose rows cannot be scored on is one sentence, for each kind of rows."""

import json

import pytest

from evomerge.errors import ConfigError
from evomerge.evaluation.tasks.files import load_objective

STS = {"sentence1": "a", "sentence2": "b", "score": 1}
USER = {"role": "user", "content": "b"}
WRONG = [
    ("labels", [], r'no row to score on; write lines like \{"text": '),
    ("sts", [[1]], r"line 1` is \[1\]; it must be a mapping"),
    ("sts", ["{'a': 1}"], "line 1 cannot be read as JSON"),
    (
        "labels",
        [{"txt": "a", "label": 1}],
        r"line 1 has no column 'text'; a row of labels is .*Did you mean 'txt'\?",
    ),
    ("labels", [{"text": None, "label": 1}], "line 1 has null in column 'text'; a row of labels"),
    ("labels", [{"text": "a", "label": 1.5}], "label` is 1.5; it must be text or a whole number"),
    ("labels", [{"text": "a", "label": True}], "label` is True; it must be text or a whole number"),
    ("pairwise", [{"chosen": "a"}], "no column 'rejected'; a row of pairwise is"),
    (
        "pairwise",
        [{"chosen": "a", "rejected": [USER]}],
        "line 1 has a text in `chosen` and messages in `rejected`; write all as texts",
    ),
    (
        "pairwise",
        [{"chosen": [{"content": "b"}], "rejected": [USER]}],
        r"chosen\[0\].role` is None; it must be text",
    ),
    ("sts", [STS, STS | {"score": "4"}], "line 2: score` is '4'; it must be a number"),
    ("sts", [STS | {"score": float("nan")}], "every number must be finite"),
    ("sts", [STS | {"sentence1": ""}], "it must be text"),
    ("retrieval", [{"query": "a", "positive": []}], "positive` is .*list with at least one entry"),
    ("retrieval", [{"query": "a", "positive": [1]}], "positive` is 1; it must be text"),
    (
        "classification",
        [{"text": "a", "label": "b"}],
        r"has 0 rows with `train`: true and 0 labels in them; .*add `train`: true",
    ),
    ("classification", [{"text": "a", "label": "b", "train": True}], "has no row to score on"),
]


@pytest.mark.parametrize(("kind", "rows", "sentence"), WRONG)
def test_a_wrong_file_is_one_sentence(kind, rows, sentence, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    with pytest.raises(ConfigError, match=sentence):
        load_objective(kind, str(file))


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"no file .*gone.*folder"):
        load_objective("sts", str(tmp_path / "gone.jsonl"))
