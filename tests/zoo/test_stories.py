"""The committed documents are those that the code makes, and none of them is used in training."""

import re

import pytest

from evomerge import zoo
from scripts.zoo import stories
from scripts.zoo.languages import L1, L2

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def documents() -> dict[str, list[stories.Document]]:
    return stories.task_documents()


@pytest.mark.parametrize("task", stories.TASKS)
def test_committed_documents_are_what_the_generator_makes(task: str) -> None:
    committed = (zoo.tasks_path() / f"{task}.jsonl").read_bytes()
    assert committed == stories.task_lines(task).encode()


def test_answers_are_right_when_computed_from_the_text(documents):
    for task, language in (("zoo_maths", L1), ("zoo_l2_maths", L2), ("zoo_l2_maths_mc", L2)):
        for document in documents[task]:
            first, second = (int(n) for n in re.findall(r"\d+", document.story))
            gained = any(verb in document.story.split() for verb in language.gains)
            number = first + second if gained else first - second
            assert document.answer == f"{number} {language.counter}"
            assert document.kind == ("plus" if gained else "minus")
