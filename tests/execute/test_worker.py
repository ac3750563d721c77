"""A worker writes all weights again, whatever functions have done to the last ones."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import yaml
from lm_tasks import asking
from merges import digest
from scripted import MadeUpWorker
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import zoo
from evomerge.errors import DeviceError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.lm_eval.tasks import Harness
from evomerge.evaluation.tasks.functions import ObjectiveFunction
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo
from evomerge.execute.protocol import Job
from evomerge.execute.worker import Worker
from evomerge.merging.resident import Resident
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source
from evomerge.scores import Failure, Objective, Scores
from evomerge.trust.code import Permissions

KEEPS = {"function": "take_first"}
ODD = {"function": "regex", "regex_pattern": "([13579] items)"}
TEXT = torch.tensor([[1, 5, 9, 7, 12, 4, 6]])
PATHS = (("a", 0, "b", 1), ("a", 0, "a", 1, "b", 2), ("b", 0, "a", 1))


@pytest.fixture
def parents(tmp_path: Path) -> dict[str, Checkpoint]:
    folders = {name: tiny.make(tmp_path / name, seed=seed) for seed, name in enumerate("ab")}
    return {name: Checkpoint.open(folder, name) for name, folder in folders.items()}


def recipe(path: tuple[Any, ...]) -> Recipe:
    whole = Layer("passthrough", (Source("a"),))
    layers = [
        Layer("passthrough", (Source(parent, layer),))
        for parent, layer in zip(path[::2], path[1::2], strict=True)
    ]
    return Recipe("a", {"model.layers": layers}, embeddings=whole, head=whole, dtype="float32")


class Bench:
    """A worker whose objectives are functions of a model, and the residents that it has made."""

    def __init__(self, parents: dict[str, Checkpoint], *bodies: Callable[[Any], float]) -> None:
        self.made: list[Resident] = []

        def load() -> Resident:
            self.made.append(Resident(parents, "a", "float32"))
            return self.made[-1]

        def judge(name: str, body: Callable[[Any], float]) -> ObjectiveFunction:
            info = TaskInfo(name, "function", 3, {"score": MetricInfo(True, is_mean=True)})
            return ObjectiveFunction(lambda model, _, ids: [body(model)] * len(ids), info)

        names = ["judge", "second"][: len(bodies)]
        evaluator = Evaluator([*map(judge, names, bodies)])
        splits = {"search": {name: [0, 1] for name in names}}
        self.worker = MadeUpWorker(load, evaluator, [recipe(PATHS[0])], splits)

    def score(self, number: int) -> Scores | Failure:
        return self.worker(Job(number, recipe(PATHS[number % len(PATHS)])))


def likelihood(model: Any) -> float:
    with torch.no_grad():
        return float(model(input_ids=TEXT, labels=TEXT).loss)


def vandal(seen: list[str]) -> Callable[[Any], float]:
    def change(model: Any) -> float:
        seen.append(digest(model) + str(likelihood(model)))
        for weight in model.parameters():
            weight.data.fill_(float("nan"))
        return 1.0

    return change


def test_what_a_function_does_to_a_model_changes_no_other(parents: Any) -> None:
    """A later function gets the model as it was built, too."""
    files = {info.file for item in parents.values() for info in item.tensors.values()}
    before = {file: file.read_bytes() for file in files}
    seen: list[str] = []
    bench = Bench(parents, vandal(seen), vandal(seen))
    for number in range(6):
        assert isinstance(bench.score(number), Scores)
    for number in range(3):
        fresh = Resident(parents, "a", "float32").apply(recipe(PATHS[number]))
        found = {*seen[2 * number : 2 * number + 2], *seen[2 * number + 6 : 2 * number + 8]}
        assert found == {digest(fresh) + str(likelihood(fresh))}
    assert len(set(seen)) == 3 and len(bench.made) == 1
    assert {file: file.read_bytes() for file in files} == before


def test_a_broken_device_is_not_the_candidates_fault(parents: Any) -> None:
    def fail(model: Any) -> float:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    bench = Bench(parents, fail)
    with pytest.raises(DeviceError, match=r"candidate 0 \(CUDA error: an illegal memory access"):
        bench.score(0)


def test_an_answer_is_right_if_all_objectives_of_its_task_say_so(tmp_path: Path) -> None:
    """Also where the second one is that of a group, whose task names the metric otherwise."""
    filters = [{"name": "plain", "filter": [KEEPS]}, {"name": "odd", "filter": [ODD, KEEPS]}]
    task = {"include": str(zoo.tasks_path() / "zoo_maths.yaml"), "task": "two_filters"}
    (tmp_path / "two_filters.yaml").write_text(yaml.safe_dump(task | {"filter_list": filters}))
    average = {"metric": "exact_match", "filter_list": ["odd"]}
    group = {"group": "g", "task": ["two_filters"], "aggregate_metric_list": [average]}
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(group))
    evaluator = asking(Harness(["g"], [tmp_path], allowed=Permissions(trust_code=True)))
    model = AutoModelForCausalLM.from_pretrained(zoo.path("maths"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("maths"))
    evaluator.prepare(model, tokenizer, {"search": {"two_filters": range(60)}})
    scores = evaluator.score(model)
    plain = Objective("two_filters", "exact_match,plain")
    right: dict[str, set[int]] = {}
    for name, objectives in (("one", [plain]), ("both", [Objective("g", "exact_match"), plain])):
        problem = SimpleNamespace(objectives=objectives)
        worker = SimpleNamespace(evaluator=evaluator, problem=problem)
        right[name] = set(Worker._right(worker, scores)["two_filters"])
    columns = [scores.values[f"two_filters/exact_match,{name}"] for name in ("plain", "odd")]
    assert right["both"] == {i for i in range(60) if columns[0][i] == columns[1][i] == 1}
    assert right["both"] < right["one"]
