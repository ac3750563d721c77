"""A file whose rows cannot be scored on is one sentence, for each kind of rows."""

import json

import pytest

from evomerge.errors import ConfigError
from evomerge.evaluation.objectives import KINDS

STS = {"sentence1": "a", "sentence2": "b", "score": 1}
USER = {"role": "user", "content": "b"}
LABEL = "it must be text or a whole number"
PAIR = {"chosen": "a", "rejected": [USER]}
WRONG = [
    ("labels", [], r'no row to score on; write lines like \{"text": '),
    ("labels", [{"txt": "a", "label": 1}], r"line 1 has no column 'text', but txt, label; a "),
    ("labels", [{"text": None, "label": 1}], "line 1 has null in column 'text'; a row of labels"),
    ("labels", [{"text": "a", "label": 1.5}], f"label` is 1.5; {LABEL}"),
    ("labels", [{"text": "a", "label": True}], f"label` is True; {LABEL}"),
    ("pairwise", [{"chosen": "a"}], "no column 'rejected', but chosen; a row of pairwise"),
    ("pairwise", [PAIR], "texts in some rows or columns, and messages in others; write all as"),
    ("pairwise", [PAIR | {"chosen": [{"content": "b"}]}], "chosen: role` is None; it must be"),
    ("sts", [[1]], r"line 1` is \[1\]; it must be a mapping"),
    ("sts", ["{'a': 1}"], "line 1 cannot be read as JSON"),
    ("sts", [STS, STS | {"score": "4"}], "line 2: score` is '4'; it must be a number"),
    ("sts", [STS | {"score": float("nan")}], "every number must be finite"),
    ("sts", [STS | {"sentence1": ""}], "it must be text"),
    ("retrieval", [{"query": "a", "positive": []}], "positive` is .*list with at least one entry"),
    ("retrieval", [{"query": "a", "positive": [1]}], "positive` is 1; it must be text"),
    ("classification", [{"text": "a", "label": "b"}], "has 0 rows .*; add `train`: true to rows"),
    ("classification", [{"text": "a", "label": "b", "train": True}], "has no row to score on"),
]


@pytest.mark.parametrize(("kind", "rows", "sentence"), WRONG)
def test_a_wrong_file_is_one_sentence(kind, rows, sentence, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    with pytest.raises(ConfigError, match=sentence):
        KINDS.get(kind).load(kind, str(file))


def test_the_first_wrong_rows_are_told_together(tmp_path):
    rows = [STS, *({**STS, "score": str(number)} for number in range(8)), {"sentence1": "a"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError) as found:
        KINDS.get("sts").load("sts", str(tmp_path / "rows.jsonl"))
    *told, last = str(found.value).splitlines()
    assert [f"line {number}: score` is" in line for number, line in enumerate(told, 2)] == [
        True
    ] * 5
    assert last.endswith("rows.jsonl has more such rows: 4.")


def test_what_is_not_read_and_what_is_there_twice_is_told(tmp_path):
    row = {"query": "a", "positive": "b"}
    rows = [row, row | {"query": "c", "negatives": ["d"]}, row | {"positive": "e", "id": 3}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    unread, twice = (
        KINDS.get("retrieval").load("retrieval", str(tmp_path / "rows.jsonl")).warnings(None)
    )
    assert "not read: id, negatives; a row of retrieval is " in unread and '"negative": [' in unread
    assert "has rows with the same query as an earlier one (1), which" in twice


def test_columns_of_strangers_are_one_short_line(tmp_path):
    row = {**STS, **{f"a\n{number}": 1 for number in range(999)}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (said,) = KINDS.get("sts").load("sts", str(tmp_path / "rows.jsonl")).warnings(None)
    assert "not read: a 0, a 1, " in said and said.isprintable() and len(said) < 1000


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"gone.jsonl does not exist"):
        KINDS.get("sts").load("sts", str(tmp_path / "gone.jsonl"))
