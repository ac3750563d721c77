"""What descents learn, by the outcomes so far."""

import pytest

from evomerge.errors import SearchError
from evomerge.recipe import Layer, Recipe
from evomerge.scores import Objective, Scores
from evomerge.strategy.gradient.lessons import Lessons, divided

DOCUMENTS = {"a": range(60), "b": range(60)}
OBJECTIVES = [Objective("a", "acc"), Objective("b", "acc")]


def recipe(name: str) -> Recipe:
    return Recipe(name, {}, Layer("", ()), Layer("", ()))


PARENTS = {"one": recipe("one"), "two": recipe("two")}


def lessons(kind, generated=("a", "b")) -> Lessons:
    return Lessons(kind, DOCUMENTS, 0, OBJECTIVES, generated, PARENTS)


def scores(right: dict[str, list[int]], **texts) -> Scores:
    """Return scores with a value of 1 for some documents."""
    values = {
        f"{task}/acc": tuple(float(i in right.get(task, ())) for i in ids)
        for task, ids in DOCUMENTS.items()
    }
    means = {key: sum(column) / len(column) for key, column in values.items()}
    return Scores({task: tuple(ids) for task, ids in DOCUMENTS.items()}, values, means, right=texts)


def everything(lesson, task: str) -> list[int]:
    return sorted([*lesson.learned.get(task, ()), *lesson.watched.get(task, ())])


def test_a_fifth_is_watched_if_these_are_ten():
    learned, watched = divided({"a": range(60), "b": range(49)}, seed=1)
    assert len(watched["a"]) == 12
    assert "b" not in watched
    assert not set(watched["a"]) & set(learned["a"])


def test_successes_are_the_first_right_answer_to_each_document():
    made = lessons("successes")
    made.add("one", scores({}, a={4: "by one", 9: "nine"}))
    made.add(None, scores({}, a={4: "by a candidate", 5: "five"}))
    lesson = made.next()
    assert everything(lesson, "a") == [4, 5, 9]
    assert lesson.answers["a"] == {4: "by one", 5: "five", 9: "nine"}
    assert "b" not in lesson.learned
    made = lessons("successes", generated=("a",))  # b generates nothing and keeps its references
    assert everything(made.next(), "b") == list(DOCUMENTS["b"])


def test_what_was_learned_is_never_watched_afterwards():
    made, again = (Lessons("successes", {"a": range(200)}, 0, (), "a", {}) for _ in range(2))
    learned: set[int] = set()
    for known in (30, 70, 71, 150, 200, 200):
        for item in (made, again):
            item.add(None, Scores({}, {}, {}, right={"a": dict.fromkeys(range(known), "x")}))
        lesson = made.next()
        assert lesson == again.next()
        watched = set(lesson.watched.get("a", ()))
        assert not watched & learned and everything(lesson, "a") == list(range(known))
        assert len(watched) == {30: 0, 70: 14, 71: 14}.get(known, known // 5)
        learned |= {*lesson.learned["a"]}


def test_the_best_parent_on_a_task_teaches_what_it_answers_right():
    made = lessons("experts")
    made.add("one", scores({"a": [1, 2], "b": []}))
    made.add("two", scores({"a": [3], "b": []}))
    made.add("uniform", scores({"a": list(range(50)), "b": [1]}))
    lesson = made.next()
    assert lesson.teachers == {"a": PARENTS["one"]}
    assert everything(lesson, "a") == [1, 2]
    assert "b" not in lesson.learned


def graded(name: str, *values: float) -> tuple[str, Scores]:
    """Return the label of a parent and its scores on documents from 0, of a metric of task a."""
    mean = sum(values) / len(values)
    return name, Scores({"a": tuple(range(len(values)))}, {"a/acc": values}, {"a/acc": mean})


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ((0.01, 0.49, 0.5, 1.0), [2, 3]),
        ((0.4, 0.6), [1]),
        ((1.0, 49.0, 51.0, 100.0), [2, 3]),
        ((-9.0, -0.1), [0, 1]),
    ],
)
def test_an_answer_is_right_with_half_of_the_most(values, right):
    made = Lessons("experts", {"a": range(4)}, 0, OBJECTIVES[:1], (), PARENTS)
    made.add(*graded("one", *values))
    assert everything(made.next(), "a") == right


def test_two_objectives_of_a_task_choose_the_teacher_and_what_is_right_together():
    objectives = [Objective("a", "acc", 3.0), Objective("a", "strict")]
    made = Lessons("experts", {"a": range(60)}, 0, objectives, (), PARENTS)
    for label, right, strict in (("one", [1, 2, 3], [2]), ("two", [3], [3, 4, 5, 6])):
        found = scores({"a": right})
        column = tuple(float(i in strict) for i in range(60))
        values = {**found.values, "a/strict": column}
        means = {key: sum(each) / 60 for key, each in values.items()}
        made.add(label, Scores(found.documents, values, means))
    lesson = made.next()
    assert lesson.teachers == {"a": PARENTS["one"]}
    assert everything(lesson, "a") == [2]


@pytest.mark.parametrize("kind", ["successes", "experts"])
def test_with_nothing_to_learn_the_search_stops_with_a_sentence(kind):
    made = lessons(kind)
    made.add("one", scores({}))
    with pytest.raises(SearchError, match="there is nothing to learn"):
        made.next()
