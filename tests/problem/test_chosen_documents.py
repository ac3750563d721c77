"""Splits: disjoint, and the same for equal seeds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import ConfigError
from evomerge.problem.tasks import DocumentPool, choose_documents

SPLITS = ("search", "validation", "test")


def split_documents(count, sizes, seed, *, task="t"):
    pool = DocumentPool(task, count)
    chosen = choose_documents(sizes, {split: {task: pool} for split in sizes}, seed)
    return {split: [*of_split[task]] for split, of_split in chosen.items()}


@given(st.integers(3, 300), st.data())
def test_splits_are_disjoint_as_large_as_asked_and_always_the_same(count, data):
    search = data.draw(st.integers(1, count - 2))
    validation = data.draw(st.integers(1, count - search - 1))
    sizes = {"search": search, "validation": validation, "test": "all"}
    parts = split_documents(count, sizes, 7)
    assert [len(parts[s]) for s in ("search", "validation")] == [search, validation]
    assert sorted(i for ids in parts.values() for i in ids) == list(range(count))
    assert all(ids == sorted(ids) for ids in parts.values())
    assert parts == split_documents(count, sizes, 7)


@pytest.mark.parametrize("sizes", [(60, 30, 20), (60, 40, "all"), ("all", 10, "all")])
def test_splits_that_would_overlap_or_be_empty_are_refused(sizes):
    with pytest.raises(ConfigError, match=r"'my_task'"):
        split_documents(100, dict(zip(SPLITS, sizes, strict=True)), 0, task="my_task")


WORLD = st.lists(st.sampled_from("abcdefghijklmnopqrst"), min_size=1, max_size=30)


@given(
    st.dictionaries(st.sampled_from("xyz"), WORLD, min_size=1),
    st.tuples(*[st.integers(1, 4) | st.just("all")] * 3),
    st.lists(st.tuples(st.sampled_from("tu"), *[st.sampled_from("xyz")] * 3), max_size=2),
)
def test_no_two_splits_have_a_text_in_common(texts, wanted, tasks):
    """Sources share some texts, and the source of a task may differ from split to split."""

    def pool(source):
        says = texts[source]
        return DocumentPool(source, len(says), lambda i: [says[i]])

    sources = {task: origins for task, *origins in tasks if set(origins) <= set(texts)}
    pools = {
        split: {task: pool(origins[k]) for task, origins in sources.items()}
        for k, split in enumerate(SPLITS)
    }
    sizes = dict(zip(SPLITS, wanted, strict=True))
    try:
        chosen = choose_documents(sizes, pools, 3)
    except ConfigError:
        return
    seen = set()
    for split in SPLITS:
        said = set()
        for task, ids in chosen[split].items():
            assert len(set(ids)) == len(ids) and sizes[split] in ("all", len(ids))
            said |= {texts[pools[split][task].source][i] for i in ids}
        assert not said & seen
        seen |= said


def test_tasks_with_common_documents_get_the_same_ones():
    sizes = {"search": 40, "validation": 30, "test": "all"}
    forms = lambda i: [f"question {i}"]  # noqa: E731
    tasks = {name: DocumentPool(name, 100, forms) for name in ("cot", "plain")}
    chosen = choose_documents(sizes, dict.fromkeys(sizes, tasks), 0)
    for of_split in chosen.values():
        assert of_split["cot"] == of_split["plain"]


def test_a_second_data_set_is_not_read_whole_for_documents_that_both_have():
    """Training splits have hundreds of thousands, and lm-eval renders each in a millisecond."""
    read = []
    forms = lambda i: read.append(i) or [f"question {i}"]  # noqa: E731
    two = DocumentPool("two", 10_000, forms, dataset="org/two")
    pools = {"one": DocumentPool("one", 100, dataset="org/one"), "two": two}
    sizes = {"search": 40, "validation": 30, "test": 20}
    choose_documents(sizes, dict.fromkeys(sizes, pools), 0)
    assert len(set(read)) == 90


def test_all_is_what_no_other_split_has_also_where_rows_repeat():
    """Of 60 rows the last three repeat others."""
    sizes = {"search": 20, "validation": 20, "test": "all"}
    tasks = {"t": DocumentPool("t", 60, lambda i: [f"row {i % 57}"])}
    chosen = choose_documents(sizes, dict.fromkeys(sizes, tasks), 3)
    assert [len(chosen[split]["t"]) for split in sizes] == [20, 20, 17]


@pytest.mark.parametrize("repeated", [1, 3, 30])
def test_numbers_that_are_suggested_fit(repeated):
    tasks = {"t": DocumentPool("t", 60, lambda i: [f"row {i % (60 - repeated)}"])}
    pools = dict.fromkeys(("search", "validation", "test"), tasks)
    with pytest.raises(ConfigError, match=r"set it to \d+ or less in each split \(one ma") as found:
        choose_documents({"search": 200, "validation": 200, "test": "all"}, pools, 0)
    number = int(str(found.value).partition("set it to ")[2].partition(" ")[0])
    assert number == (60 - repeated) // 3
    for last in (number, "all"):
        for seed in range(20):
            choose_documents({"search": number, "validation": number, "test": last}, pools, seed)
