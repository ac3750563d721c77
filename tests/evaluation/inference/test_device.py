"""The number of CPU threads that models are scored with."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from evomerge.evaluation.inference.device import SMALL, choose_threads, use_only


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_small_model_is_scored_on_one_thread_and_others_on_all() -> None:
    assert choose_threads(SMALL - 1) == 1
    assert choose_threads(SMALL) == choose_threads(SMALL, 5) == 2
    assert choose_threads(SMALL, 1) == 1


def test_other_accelerators_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    use_only(())
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    use_only(("cuda:2", "cuda:3"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    use_only(("cuda:1",))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3", "numbered among those that are visible"
