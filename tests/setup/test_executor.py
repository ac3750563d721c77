"""The section `executor`: what is refused, and what `validate` says of workers."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from evomerge.config.schema import SearchConfig, parse
from evomerge.errors import ConfigError
from evomerge.setup import workers
from evomerge.setup.workers import (
    check_move,
    check_workers,
    describe_workers,
    worker_devices,
)

PLAIN = {"parents": ["a", "b"], "objectives": [{"task": "t", "metric": "acc"}]}


def config(evaluation: dict[str, Any] | None = None, **given: Any) -> SearchConfig:
    data = copy.deepcopy(PLAIN) | {"executor": given, "evaluation": evaluation or {}}
    return parse(data, "search.yaml")


def test_auto_means_a_worker_for_each_core_or_for_as_many_threads_as_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "count_cores", lambda: 12)
    auto = {"kind": "processes", "workers": "auto"}
    assert worker_devices(config({"device": "cpu"}, **auto)) == [()] * 12
    assert worker_devices(config({"device": "cpu", "threads": 5}, **auto)) == [()] * 2
    assert worker_devices(config({"device": "cpu", "threads": 50}, **auto)) == [()]


def test_workers_take_the_accelerators_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "choose_device", lambda wanted: "cuda")
    monkeypatch.setattr(workers, "count_devices", lambda kind: 2)
    auto = config(kind="processes", workers="auto")
    assert worker_devices(auto) == [("cuda:0",), ("cuda:1",)]
    three = {"kind": "processes", "workers": 3, "order": "generation"}
    assert worker_devices(config(**three)) == [("cuda:0",), ("cuda:1",), ("cuda:0",)]
    assert describe_workers(config(**three), 14) == (
        "3 processes on cuda:0, cuda:1; a generation of 14 leaves 7% of their time unused, and "
        "`optimizer.population: 15` would leave none"
    )
    check_workers(config({"backend": "vllm"}, kind="processes", workers=2))
    with pytest.raises(ConfigError, match="an accelerator of its own, which is enough for 2"):
        check_workers(config({"backend": "vllm"}, **three))


def test_a_divided_engine_is_one_worker_on_several_accelerators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "choose_device", lambda wanted: "cuda")
    monkeypatch.setattr(workers, "count_devices", lambda kind: 5)
    two = {"backend": "vllm", "tensor_parallel": 2}
    pairs = [("cuda:0", "cuda:1"), ("cuda:2", "cuda:3")]
    auto = {"kind": "processes", "workers": "auto"}
    for more in ({}, {"device": "cpu"}, {"device_map": "auto"}):
        assert worker_devices(config(two | more, **auto)) == pairs
    assert describe_workers(config(two, **auto, order="arrival"), 1) == (
        "2 processes on cuda:0+cuda:1, cuda:2+cuda:3"
    )
    check_workers(config(two, **auto))
    with pytest.raises(ConfigError, match="takes 2 accelerators of its own, which is enough for 2"):
        check_workers(config(two, kind="processes", workers=3))
    with pytest.raises(ConfigError, match=r"`evaluation\.tensor_parallel` is 8, but this machine"):
        check_workers(config(two | {"tensor_parallel": 8}))


def test_a_search_that_has_begun_can_move_but_not_change() -> None:
    for item in ("executor.workers=8", "executor.ray.address=auto", "executor.timeout=null"):
        check_move(item)
    for item in ("executor={}", "executor.order=arrival", "seed=2", "executor.kindness=ray", "x"):
        with pytest.raises(ConfigError, match="a search that has begun keeps its search file"):
            check_move(item)
