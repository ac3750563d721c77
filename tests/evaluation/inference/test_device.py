"""The number of CPU threads that models are scored with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from evomerge.evaluation.inference.device import SMALL, fastest_threads, use_only, use_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def takes(one: float, two: float) -> Callable[[], None]:
    """Return a function that takes so many seconds with one and with two threads."""
    return lambda: time.sleep(one if torch.get_num_threads() == 1 else two)


def test_more_threads_must_be_clearly_faster() -> None:
    assert fastest_threads(takes(0.06, 0.02)) == 2
    assert fastest_threads(takes(0.02, 0.06)) == 1
    assert fastest_threads(takes(0.03, 0.029)) == 1
    assert torch.get_num_threads() == 2


def test_what_was_chosen_before_is_used_without_a_measurement() -> None:
    def never() -> None:
        raise AssertionError

    assert use_threads(1, 10 * SMALL, "cpu", never) == torch.get_num_threads() == 1
    assert use_threads(None, SMALL // 2, "cpu", never) == torch.get_num_threads() == 1
    torch.set_num_threads(2)
    assert use_threads(None, 10 * SMALL, "cuda", never) == torch.get_num_threads() == 2
    assert use_threads(None, 10 * SMALL, "cpu", None) == 2
    assert use_threads(None, 10 * SMALL, "cpu", takes(0.02, 0.06)) == torch.get_num_threads() == 1


def test_other_accelerators_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    use_only(())
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    use_only(("cuda:2", "cuda:3"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    use_only(("cuda:1",))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3", "numbered among those that are visible"
