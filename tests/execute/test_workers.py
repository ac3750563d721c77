"""The section `executor`: what is refused, how many workers there are and where; no Ray runs."""

import importlib.util
from typing import Any

import pytest

from evomerge.config.executor import Workers
from evomerge.config.schema import SearchConfig, parse
from evomerge.errors import ConfigError
from evomerge.execute import devices, processes
from evomerge.execute import ray as on_cluster
from evomerge.execute.devices import device_change
from evomerge.execute.processes import Processes
from evomerge.execute.ray import RayActors
from evomerge.problem.runs import check_move

PLAIN = {"parents": ["a", "b"], "objectives": [{"task": "t", "metric": "acc"}]}
AUTO = {"kind": "processes", "workers": "auto"}


def config(evaluation: dict[str, Any] | None = None, **executor: Any) -> SearchConfig:
    return parse(PLAIN | {"executor": executor, "evaluation": evaluation or {}}, "search.yaml")


def on_ray(evaluation: dict[str, Any] | None = None, **executor: Any) -> SearchConfig:
    return config(evaluation, kind="ray", **executor)


def check(config: SearchConfig) -> None:
    config.executor.check(config.evaluation)


def workers_of(config: SearchConfig) -> Workers:
    return config.executor.count_workers(config.evaluation)


def devices_of(config: SearchConfig) -> list[tuple[str, ...]]:
    assert isinstance(config.executor, Processes)
    return config.executor.devices(config.evaluation)


def needed(config: SearchConfig) -> dict[str, float]:
    assert isinstance(config.executor, RayActors)
    return config.executor.needed(config.evaluation)


def machine(monkeypatch: pytest.MonkeyPatch, cores: int, accelerators: int) -> None:
    kind = "cuda" if accelerators else "cpu"
    monkeypatch.setattr(devices, "choose_device", lambda wanted: kind)
    for module in (devices, processes):
        monkeypatch.setattr(module, "count_devices", lambda kind: accelerators or 1)
    monkeypatch.setattr(processes, "count_cores", lambda: cores)


def test_auto_means_a_worker_for_each_core_or_for_as_many_threads_as_are_asked(monkeypatch):
    machine(monkeypatch, 12, 0)
    for threads, count in (("auto", 12), (5, 2), (50, 1)):
        assert devices_of(config({"threads": threads}, **AUTO)) == [()] * count


def test_workers_take_the_accelerators_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 12, 2)
    assert devices_of(config(**AUTO)) == [("cuda:0",), ("cuda:1",)]
    three = {"kind": "processes", "workers": 3, "order": "generation"}
    assert devices_of(config(**three)) == [("cuda:0",), ("cuda:1",), ("cuda:0",)]
    assert workers_of(config(**three)).text == "3 processes on cuda:0, cuda:1"
    check(config({"backend": "vllm"}, kind="processes", workers=2))
    with pytest.raises(ConfigError, match="an accelerator of its own, which is enough for 2"):
        check(config({"backend": "vllm"}, **three))


def test_a_divided_engine_is_one_worker_on_several_accelerators(monkeypatch):
    machine(monkeypatch, 12, 5)
    two = {"backend": "vllm", "tensor_parallel": 2}
    for more in ({}, {"device": "cpu"}, {"device_map": "auto"}):
        pairs = [("cuda:0", "cuda:1"), ("cuda:2", "cuda:3")]
        assert devices_of(config(two | more, **AUTO)) == pairs
    check(config(two, **AUTO))
    with pytest.raises(ConfigError, match="takes 2 accelerators of its own, which is enough for 2"):
        check(config(two, kind="processes", workers=3))
    check(config(two | {"tensor_parallel": 5}))
    with pytest.raises(ConfigError, match=r"`evaluation\.tensor_parallel` is 6, but this machine"):
        check(config(two | {"tensor_parallel": 6}))


def test_a_search_that_has_begun_can_move_but_not_change() -> None:
    for item in ("executor.workers=8", "executor.ray.address=auto"):
        check_move(item)
    for item in ("executor={}", "executor.order=arrival", "executor.kindness=ray", "x"):
        with pytest.raises(ConfigError, match="a search that has begun keeps its search file"):
            check_move(item)


def test_without_ray_or_a_cluster_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'127.0.0.1:1', but no Ray cluster answers there"):
        check(on_ray(ray={"address": "127.0.0.1:1"}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'evomerge\[ray\]'"):
        check(on_ray())


def test_workers_of_ray_fit_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_cluster, "count_cores", lambda: 4)
    monkeypatch.setattr(on_cluster, "count_devices", lambda kind: 0)
    assert workers_of(on_ray(workers="auto")).count == 4
    assert workers_of(on_ray({"threads": 2}, workers="auto")).count == 2
    assert workers_of(on_ray(workers=3)).text == "3 Ray actors on this machine, each with CPU 1"
    with pytest.raises(ConfigError, match="is 5, and each takes CPU 1, but there is room for 4"):
        check(on_ray(workers=5))


def test_workers_are_placed_where_all_their_resources_are(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [{"CPU": 8.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 2.0, "GPU": 4.0, "big": 1.0}]
    monkeypatch.setattr(RayActors, "machines", lambda self: found)
    for resources, most, count in (
        ({"GPU": 1}, 4, 6),
        ({"GPU": 0.25}, 16, 18),
        ({"GPU": 2, "CPU": 16}, 2, 2),
        ({"big": 1}, 1, 1),
    ):
        placed = workers_of(on_ray(workers="auto", ray={"resources": resources}))
        assert (placed.on_a_machine, placed.count) == (most, count)
    few = on_ray(workers=7, ray={"address": "head:6379", "resources": {"GPU": 1}})
    with pytest.raises(ConfigError, match="there is room for 6"):
        check(few)
    shared = on_ray({"backend": "vllm"}, workers="auto", ray={"resources": {"GPU": 0.5}})
    with pytest.raises(ConfigError, match=r"gives each worker GPU 0\.5, but each vLLM engine"):
        check(shared)
    assert workers_of(on_ray(workers=3, ray={"resources": {"GPU": 0.5}})).on_a_machine == 3
    assert needed(on_ray()) == {"CPU": 1.0, "GPU": 1.0}
    assert needed(on_ray({"device": "cpu"})) == {"CPU": 1.0}


CPU_TIMES, GPU_TIMES = {"process": 9}, {"process": 9, "accelerator": 9}


@pytest.mark.parametrize(
    ("peak", "accelerators", "options", "words"),
    [
        (GPU_TIMES, 0, {}, "scored on an accelerator, and are scored on the CPU now"),
        (CPU_TIMES, 1, {}, "scored on the CPU, and are scored on an accelerator now"),
        (GPU_TIMES, 1, {}, None),
        (CPU_TIMES, 0, {}, None),
        ({}, 1, {}, None),  # nothing was scored yet
        (CPU_TIMES, 1, {"evaluation": {"backend": "vllm"}}, None),
        (GPU_TIMES, 0, {"kind": "ray"}, None),
    ],
)
def test_a_run_that_moves_to_another_device_is_warned_of(
    monkeypatch, peak, accelerators, options, words
):
    machine(monkeypatch, 1, accelerators)
    warning = device_change(config(**options), peak)
    assert warning is None if words is None else words in str(warning)
