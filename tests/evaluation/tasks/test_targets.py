"""The text that Gram matrices are made of: the prompt and the right answer of a document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.task import Task

from evomerge.errors import ConfigError
from evomerge.evaluation.inference.reference import ReferenceLM
from evomerge.evaluation.tasks.harness import Harness
from evomerge.evaluation.tasks.targets import with_target

IDS = (0, 3, 17, 38)


@pytest.fixture(scope="module")
def reference(llama: Any, tokenizer: Any) -> ReferenceLM:
    return ReferenceLM(llama, tokenizer)


def expected(name: str, row: dict[str, Any]) -> tuple[str, str]:
    prompt = f"Question: {row['question']}\nAnswer:"
    if name == "t_rolling":
        return "", row["text"]
    if name == "t_letter":
        return f"{row['question']} a or b?", f" {'ab'[row['level']]}"
    if name == "t_inputs":
        return row["options"][row["level"]], f" {row['answer']}"
    if name in ("t_continue", "t_generate", "t_sample", "t_filters"):
        space = "  " if name == "t_continue" and not hasattr(Task, "scorers") else " "
        return prompt, space + row["answer"] if name != "t_continue" else ""
    return prompt, f" {row['choices'][row['label']]}"


@pytest.mark.parametrize(
    "name", ["t_choice", "t_letter", "t_inputs", "t_rolling", "t_generate", "t_sample", "t_filters"]
)
def test_every_type_of_task_gives_its_right_answer(
    name: str, tasks: Path, reference: ReferenceLM
) -> None:
    rows = [json.loads(line) for line in (tasks / "documents.jsonl").read_text().splitlines()]
    found = Harness([name], [tasks]).with_targets(name, IDS, reference)
    assert found == [expected(name, rows[i]) for i in IDS]


@pytest.mark.parametrize("name", ["t_continue", "t_mutual"])
def test_a_scored_answer_is_that_of_the_request(
    name: str, tasks: Path, reference: ReferenceLM
) -> None:
    rows = [json.loads(line) for line in (tasks / "documents.jsonl").read_text().splitlines()]
    for (prompt, answer), i in zip(
        Harness([name], [tasks]).with_targets(name, IDS, reference), IDS, strict=True
    ):
        row = rows[i]
        right = row["answer"] if name == "t_continue" else row["choices"][row["label"]]
        assert prompt == f"Question: {row['question']}\nAnswer:"
        assert answer.strip() == right


def test_in_a_chat_template_the_answer_follows_its_header(
    tasks: Path, reference: ReferenceLM
) -> None:
    harness = Harness(["t_generate"], [tasks], apply_chat_template=True)
    ((prompt, answer),) = harness.with_targets("t_generate", [0], reference)
    row = json.loads((tasks / "documents.jsonl").read_text().splitlines()[0])
    assert prompt.endswith("<|assistant|>")
    assert answer == row["answer"]


def test_the_model_reads_all_but_the_last_token(reference: ReferenceLM) -> None:
    before, after = reference.pair("the red cat", " eats a fish")
    assert reference.inputs("the red cat", " eats a fish") == [(*before, *after[:-1])]
    long = " ".join(["the big dog sees a small tree"] * 40)
    windows = reference.inputs("", long)
    assert len(windows) > 1
    assert sum(len(after) for _, after in reference.windows(long)) == len(
        reference._lm.tok_encode(long)
    )
    assert max(map(len, windows)) <= reference.max_length


def test_a_document_without_an_answer_is_refused(tasks: Path, reference: ReferenceLM) -> None:
    harness = Harness(["t_generate"], [tasks])
    task = harness._tasks["t_generate"]
    ((request,),) = harness.build("t_generate", [3], reference)
    task.set_config(key="doc_to_target", value=lambda document: "")
    with pytest.raises(ConfigError, match=r"Document \d+ of task 't_generate' has no right answer"):
        with_target(task, "t_generate", [request], chat=False)
