"""Sharing work among threads changes no bit and loses no error."""

import threading

import pytest
import tiny
import torch
from merges import digest, every, of_method

from evomerge.device import count_threads, torch_threads
from evomerge.errors import CandidateError
from evomerge.merging.resident import Resident
from evomerge.merging.tensors.make import PreparedMerges, for_each
from evomerge.merging.writer import write_model


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "della", "slerp", "sce"])
def test_any_number_of_threads_gives_the_same_bits(method, threads, family, tmp_path):
    checkpoints, seen = family(hidden_size=64, vocab_size=700), set()
    values = {"weight": 0.7, "t": 0.3, "density": 0.5, "lambda": 1.0, "select_topk": 0.5}
    recipe = every(checkpoints["base"], lambda i: of_method(method, i, values), seed=3)
    for count in (1, 2, 5):
        threads(count)
        resident = Resident(checkpoints, "base")
        resident.apply(recipe)
        write_model(recipe, checkpoints, tmp_path / f"out{count}", threads=count)
        seen |= {digest(resident.module), digest(tiny.load(tmp_path / f"out{count}"))}
        assert torch.get_num_threads() == count
    assert len(seen) == 1


@pytest.mark.parametrize("count", [1, 3])
def test_items_go_to_several_threads_and_errors_come_back(count, threads):
    threads(count)
    names: set[str] = set()
    together = threading.Barrier(count)

    def work(item):
        assert torch.get_num_threads() == 1
        names.add(threading.current_thread().name)
        if item < count:
            together.wait(250)
        if item >= 20:
            raise CandidateError(f"item {item}")

    with torch_threads(1) as number:
        for_each(work, range(20), number)
    assert len(names) == count
    done: list[int] = []
    with pytest.raises(CandidateError, match="item 20"), torch_threads(1):
        for_each(lambda item: (done.append(item), work(item)), range(18, 500), number)
    assert len(done) <= 2 + count
    assert torch.get_num_threads() == count


@pytest.mark.parametrize(("given", "count"), [("3", 3), ("2,1", 2), ("", 5), ("0", 5), ("x", 5)])
def test_a_merge_of_files_uses_as_many_threads_as_torch_would(monkeypatch, given, count):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(5), raising=False)
    assert count_threads() == count


def test_threads_share_prepared_merges_within_the_room():
    prepared, made = PreparedMerges(room=1000), []

    def need(key):
        if prepared.find(key) is None:
            prepared.keep(key, 100, lambda: made.append(key) or key)

    for keys in (range(15), range(14, -1, -1), range(15)):
        prepared.begin_candidate()
        for_each(need, keys, 4)
        kept = [key for key in range(15) if prepared.find(key) is not None]
        assert len(kept) == 10
    assert sorted(made) == kept
    # The merges of another kind of candidate replace them, but not for a single one of it.
    for _ in range(2):
        prepared.begin_candidate()
        assert sorted(made) == kept
        for_each(need, range(100, 110), 4)
    assert sorted(made) == [*kept, *range(100, 110)]
    assert [prepared.find(key) for key in range(100, 110)] == list(range(100, 110))
