"""Ray in a search file: what is refused before any compute, and how many workers fit."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from evomerge.config.schema import SearchConfig, parse
from evomerge.errors import ConfigError
from evomerge.setup import cluster
from evomerge.setup.cluster import ray_workers
from evomerge.setup.workers import (
    check_workers,
    describe_workers,
    workers_of,
)

PLAIN = {"parents": ["a", "b"], "objectives": [{"task": "t", "metric": "acc"}]}


def config(evaluation: dict[str, Any] | None = None, **executor: Any) -> SearchConfig:
    given = {"executor": {"kind": "ray", **executor}, "evaluation": evaluation or {}}
    return parse(PLAIN | given, "search.yaml")


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "count_cores", lambda: 4)
    monkeypatch.setattr(cluster, "count_devices", lambda kind: 0)


@pytest.fixture
def three_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [{"CPU": 8.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 2.0, "GPU": 4.0, "big": 1.0}]
    monkeypatch.setattr(cluster, "machines", lambda config: found)


def test_a_missing_ray_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ray" else find(name)
    )
    with pytest.raises(ConfigError, match=r"pip install 'evomerge\[ray\]'"):
        check_workers(config())


def test_no_cluster_at_an_address_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"'127.0.0.1:1', but no Ray cluster answers there"):
        check_workers(config(ray={"address": "127.0.0.1:1"}))


@pytest.mark.usefixtures("four_cores")
def test_without_an_address_workers_fit_on_this_machine() -> None:
    assert ray_workers(config(workers="auto")).count == 4
    assert ray_workers(config({"threads": 2}, workers="auto")).count == 2
    assert describe_workers(config(workers=3, order="generation"), 6) == (
        "3 Ray actors on this machine, each with CPU 1"
    )
    with pytest.raises(ConfigError, match="is 5, and each takes CPU 1, but there is room for 4"):
        check_workers(config(workers=5))


@pytest.mark.usefixtures("three_machines")
def test_workers_are_placed_where_all_their_resources_are() -> None:
    def fits(**resources: float) -> list[int]:
        return ray_workers(config(workers="auto", ray={"resources": resources})).by_machine

    assert fits(GPU=1) == [4, 2]
    assert fits(GPU=0.25) == [16, 2]
    assert fits(GPU=0.1, CPU=0.05) == [40, 40]
    assert fits(GPU=2, CPU=16) == [2]
    assert fits(big=1) == [1]
    few = config(workers=7, ray={"address": "head:6379", "resources": {"GPU": 1}})
    with pytest.raises(ConfigError, match="there is room for 6"):
        check_workers(few)
    shared = config({"backend": "vllm"}, workers="auto", ray={"resources": {"GPU": 0.5}})
    with pytest.raises(ConfigError, match=r"gives each worker GPU 0\.5, but each vLLM engine"):
        check_workers(shared)
    assert workers_of(config(workers=3, ray={"resources": {"GPU": 0.5}})).on_a_machine == 3
    assert ray_workers(config()).needed == {"CPU": 1.0, "GPU": 1.0}
    assert ray_workers(config({"device": "cpu"})).needed == {"CPU": 1.0}
