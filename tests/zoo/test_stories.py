"""The committed documents are those that the code makes, and none of them is used in training."""

import random
import re

import pytest

from evomerge import zoo
from scripts.zoo import stories
from scripts.zoo.languages import L1, L2

pytestmark = pytest.mark.thorough

MAKERS = {
    "L1 questions": stories.language_question(L1),
    "L2 questions": stories.language_question(L2),
    "L1 arithmetic": stories.arithmetic_question(L1),
    "L2 arithmetic": stories.arithmetic_question(L2),
    "facts": stories.fact_question,
    "L1 sums": stories.chain_question,
    "counting": stories.counting,
}


@pytest.fixture(scope="module")
def documents() -> dict[str, list[stories.Document]]:
    return stories.task_documents()


@pytest.mark.parametrize("task", stories.TASKS)
def test_committed_documents_are_what_the_generator_makes(task: str) -> None:
    committed = (zoo.tasks_path() / f"{task}.jsonl").read_bytes()
    assert committed == stories.task_lines(task).encode()


def test_no_story_occurs_twice_or_in_training(documents):
    texts = [d.story for task in documents.values() for d in task]
    assert len(texts) == len(set(texts)) == sum(t.count for t in stories.TASKS.values())
    assert all(stories.held_out(story) for story in texts)
    rng = random.Random(3)
    for maker in MAKERS.values():
        training = {stories.training_document(maker, rng).story for _ in range(2000)}
        assert training.isdisjoint(texts)


def test_answers_are_right_when_computed_from_the_text(documents):
    for task, language in (("zoo_maths", L1), ("zoo_l2_maths", L2), ("zoo_l2_maths_mc", L2)):
        for document in documents[task]:
            first, second = (int(n) for n in re.findall(r"\d+", document.story))
            gained = any(verb in document.story.split() for verb in language.gains)
            number = first + second if gained else first - second
            assert document.answer == f"{number} {language.counter}"
            assert document.kind == ("plus" if gained else "minus")


def test_steps_lead_from_the_story_to_the_answer(documents):
    for document in documents["zoo_steps"]:
        number, *amounts = (int(n) for n in re.findall(r"\d+", document.story))
        verbs = [word for word in document.story.split() if word in L1.gains + L1.losses]
        for verb, amount, step in zip(verbs, amounts, document.steps.split(" then "), strict=True):
            after = number + amount if verb in L1.gains else number - amount
            direction = "more" if verb in L1.gains else "less"
            assert step.strip(" .").endswith(f"{number} {direction} {amount} : {after}")
            number = after
        assert document.answer == f"{number} items"
        assert ("one", "two", "three")[len(amounts) - 1] == document.kind
