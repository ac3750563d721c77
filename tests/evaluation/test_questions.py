"""Files of questions and answers as tasks: what lm-eval itself asks, and calls right."""

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from lm_eval.tasks import TaskManager

from evomerge.compat.lm_eval import beside, load_tasks, start_data_beside_yaml
from evomerge.evaluation.questions import read_questions

FORMS = {
    "question, answer": ({"question": "Why?", "answer": "So"}, "Why?", "So"),
    "prompt, completion": ({"prompt": "Why?", "completion": " So "}, "Why?", "So"),
    "instruction, output": ({"instruction": "Why?", "output": "So"}, "Why?", "So"),
    "instruction, input, output": (
        {"instruction": "Why?", "input": "Tell", "output": "So"}, "Why?\n\nTell", "So",
    ),
    "numbers": ({"Question": "How many?", "Answer": 7}, "How many?", "7"),
    "brackets": ({"question": "Which list?", "answer": "[1, 2]"}, "Which list?", "[1, 2]"),
    "messages": (
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So"}]},
        "Why?", "So",
    ),
    "messages of a system": (
        {"messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "So\n"},
        ]},
        "Be brief.\n\nWhy?", "So",
    ),
}  # fmt: skip
"""Columns -> a row, the question in it, and its answer."""

CHOICES = ["red", "blue", "green"]
CHOSEN = {
    "place from 0": [{"choices": CHOICES, "answer": place} for place in (0, 1)],
    "place from 1": [{"choices": CHOICES, "answer": place} for place in (1, 2, 3)],
    "letter": [{"options": CHOICES, "label": letter} for letter in "AB"],
    "text": [{"choices": CHOICES, "answer": text} for text in ("red", "blue")],
    "names": [
        {"choices": {"text": CHOICES, "label": ["1", "2", "3"]}, "answerKey": name}
        for name in ("1", "2")
    ],
    "columns": [{"A": "red", "B": "blue", "C": "green", "answer": letter} for letter in ("A", "B")],
}
"""How the right choice is said -> rows, whose right choices are the first one, the second one..."""


def write(file: Path, rows):
    if file.suffix == ".csv":
        with file.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def task_of(folder: Path, rows, kind=".jsonl", *, is_chat=False):
    """Return lm-eval's task for rows of a file, and what the task was taken for."""
    home = folder / "tasks"
    home.mkdir()
    write(folder / f"My rows{kind}", rows)
    asked = read_questions(
        folder / f"My rows{kind}", "rows", home, is_chat=is_chat, others="others"
    )
    (home / "my.yaml").write_text(asked.yaml)
    manager = TaskManager(include_path=str(home), include_defaults=False)
    (task,) = load_tasks(start_data_beside_yaml(manager), asked.task)[0].values()
    return task, asked


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("columns", FORMS)
def test_lm_eval_asks_the_question_and_knows_the_answer(tmp_path, columns, kind):
    row, question, answer = FORMS[columns]
    if kind == ".csv" and "messages" in row:
        pytest.skip("a cell of a CSV file has no list")
    task, asked = task_of(tmp_path, [row] * 3, kind)
    (document, *_) = task.eval_docs
    bare = question if "prompt" in row else f"Question: {question}\nAnswer:"
    assert task.doc_to_text(document) == bare
    assert task.doc_to_target(document) == answer
    assert asked.metric == "exact_match" and asked.rows == 3 and asked.task == "my_rows"
    assert task.process_results(document, [answer])["exact_match"] == 1
    assert task.process_results(document, ["No"])["exact_match"] == 0


@pytest.mark.parametrize("said", CHOSEN)
def test_the_right_choice_is_known(tmp_path, said):
    task, asked = task_of(tmp_path, [{"question": "Which?", **row} for row in CHOSEN[said]])
    assert asked.metric == "acc" and task.OUTPUT_TYPE == "multiple_choice"
    for right, document in enumerate(task.eval_docs):
        assert task.doc_to_choice(document) == CHOICES
        assert task.doc_to_text(document) == "Question: Which?\nAnswer:"
        likely = [(-1.0 if place == right else -2.0, False) for place in range(3)]
        assert task.process_results(document, likely)["acc"] == 1
        assert task.process_results(document, likely[::-1])["acc"] == (right == 1)


def test_choices_of_numbers_are_texts(tmp_path):
    rows = [{"question": "How many?", "choices": [3, 40], "answer": 40}]
    task, _ = task_of(tmp_path, rows)
    (document,) = task.eval_docs
    assert task.doc_to_choice(document) == ["3", "40"] and task.doc_to_target(document) == 1


def test_long_answers_are_scored_by_their_likelihood(tmp_path):
    row = {"question": "Why?", "answer": "Since it has always been so, and longer than a line."}
    task, asked = task_of(tmp_path, [row])
    (document,) = task.eval_docs
    assert asked.metric == "nll" and task.OUTPUT_TYPE == "loglikelihood"
    assert task.doc_to_target(document) == f" {row['answer']}"


def test_a_completion_with_its_own_space_gets_no_other(tmp_path):
    row = {"prompt": "def f():", "completion": "\n    return 1\n"}
    task, _ = task_of(tmp_path, [row])
    (document,) = task.eval_docs
    assert task.doc_to_text(document) + task.doc_to_target(document) == "".join(row.values())


def test_a_chat_model_is_asked_the_bare_question(tmp_path):
    row = {"question": "Why?", "answer": "So"}
    task, _ = task_of(tmp_path, [row], is_chat=True)
    (document,) = task.eval_docs
    assert task.doc_to_text(document) == "Why?"
    assert "<|im_end|>" in task.get_config("generation_kwargs")["until"]


def test_a_cell_that_says_na_is_a_text(tmp_path):
    rows = [{"question": "The symbol of sodium?", "answer": "NA"}]
    task, _ = task_of(tmp_path, rows, ".csv")
    (document,) = task.eval_docs
    assert task.doc_to_target(document) == "NA"


def test_data_files_start_from_the_folder_of_the_yaml_if_they_are_there(tmp_path):
    (tmp_path / "one.jsonl").touch()
    there = str(tmp_path / "one.jsonl")
    files = {"test": ["one.jsonl", "two.jsonl"], "train": "https://a.b/one.jsonl"}
    assert beside(files, tmp_path) == {"test": [there, "two.jsonl"], "train": files["train"]}
    assert beside("*.jsonl", tmp_path) == str(tmp_path / "*.jsonl")
    assert beside(there, tmp_path / "other") == there and beside(None, tmp_path) is None


def test_yaml_is_one_line_for_a_key(tmp_path):
    _, asked = task_of(tmp_path, [{"question": "Warum?", "answer": "Größe"}])
    assert yaml.safe_load(asked.yaml)["doc_to_text"] == "Question: {{question}}\nAnswer:"
    assert len(asked.yaml.splitlines()) == 16
