"""What the optimizers search: spaces of merges that are really built and scored."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeAlias

import yaml

from evomerge import merge
from evomerge.config.schema import parse
from evomerge.errors import CandidateError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.execute.worker import Worker
from evomerge.problem.runs import prepare
from evomerge.recipe import Recipe
from evomerge.run.atomic import TemporaryFolder
from evomerge.scores import Objective, Split
from evomerge.space.protocol import Genome, Space
from evomerge.strategy.gradient.segment import Segment

HERE = Path(__file__).resolve().parents[1]

Documents: TypeAlias = Mapping[str, Sequence[int]]
"""Task -> ids of documents."""

Marks: TypeAlias = Mapping[str, Mapping[int, float]]
"""Task -> document -> the value of its metric, of one model."""

COMMON = 200
"""Search documents of a world whose number is chosen, so that validation and test documents are the
same for all numbers. More come from the test documents."""


@dataclass(frozen=True)
class Tasks:
    """What the candidates of a space are scored on.

    Attributes:
        objectives: (task, metric); the fitness is their mean.
        include: folder of the tasks.
        search: documents of each task that a candidate is scored on.
        validation: documents of each task that a finalist is scored on.
        test: documents of each task that the winner is scored on; `all`: all others.
        splits: lm-eval's splits that these documents come from; None: the seed divides those that
            lm-eval evaluates on.
        longest: largest number of tokens that a model generates; None: that of the task.
    """

    objectives: Sequence[tuple[str, str]]
    include: str
    search: int
    validation: int
    test: int | Literal["all"] = "all"
    splits: tuple[str, str, str] | None = None
    longest: int | None = None


@dataclass(frozen=True)
class Setting:
    """A space with its tasks.

    Attributes:
        tasks: what its candidates are scored on.
        parents: as in a search file.
        space: as in a search file, in one line.
        base: as in a search file.
        dtype: as in a search file.
    """

    tasks: Tasks
    parents: Sequence[str]
    space: str
    base: str | None = None
    dtype: str = "float32"

    def search_file(self, seed: int) -> dict[str, Any]:
        """Return a search file.

        Args:
            seed: chooses the documents of search and validation.
        """
        tasks = self.tasks
        counts = {"search": tasks.search, "validation": tasks.validation, "test": tasks.test}
        splits = zip(counts.items(), tasks.splits or (None,) * 3, strict=True)
        return {
            "seed": seed,
            "parents": list(self.parents),
            "base": self.base,
            "dtype": self.dtype,
            "space": yaml.safe_load(f"{{{self.space}}}"),
            "objectives": [{"task": task, "metric": metric} for task, metric in tasks.objectives],
            "evaluation": {
                "include": [tasks.include],
                "threads": 1,
                "generation": {"max_gen_toks": tasks.longest},
                **{
                    split: {"documents": count, "task_split": source}
                    for (split, count), source in splits
                },
            },
        }


L2_MATHS = Tasks([("zoo_l2_maths", "exact_match")], "zoo:tasks", search=100, validation=200)
"""Arithmetic in the language that the maths model does not know."""

SKILLS = Tasks(
    [
        ("zoo_l2", "exact_match"),
        ("zoo_maths", "exact_match"),
        ("zoo_facts", "acc"),
        ("zoo_l2_maths", "exact_match"),
    ],
    "zoo:tasks",
    search=20,
    validation=40,
    test=250,
)
"""The tasks of configs/multitask.yaml: three skills, and two of them at once."""

SUMS_AND_BACKWARDS = Tasks(
    [("json_sums", "exact_match"), ("json_backwards", "exact_match")],
    "../runs/showcase/tasks",
    search=40,
    validation=100,
    splits=("training", "validation", "test"),
    longest=16,  # the longest answer has 14; the task allows 24, which only wrong answers use
)
"""The tasks of scripts/real/three.yaml: sums as JSON, and numbers backwards as JSON."""

BACKWARDS = Tasks(
    [("json_backwards", "exact_match")],
    "../runs/showcase/tasks",
    search=80,
    validation=100,
    splits=("training", "validation", "test"),
)
"""The task of scripts/real/qwen.yaml: numbers backwards as JSON."""

SPANISH = replace(BACKWARDS, objectives=[("spanish_sums", "exact_match")])
"""The task of scripts/real/spanish.yaml: sums in Spanish."""

_PATH = (
    "host: zoo:maths, repeats: 8, scales: 1.0, ends: free, layers: [4, 12], "
    "outside: {embeddings: zoo:language, head: zoo:language}"
)
_TWO = ["zoo:language", "zoo:maths"]
_THREE = [*_TWO, "zoo:facts"]
_POOL = (
    *("language-0.5-maths-0.5", "language-0.5-maths-1.0", "language-1.0-maths-0.5"),
    *("language-0.5-facts-0.5", "maths-0.5-facts-0.5"),
)
"""Merges of two experts with these weights."""
_EIGHT = [*_THREE, *(f"pool/{name}" for name in _POOL)]


def _weights(low: float, high: float, shape: str) -> str:
    return f"kind: parameters, method: task_arithmetic, knobs: {{weight: [{low}, {high}]}}, {shape}"


def _embedded(parents: Sequence[str], high: float, shape: str, tasks: Tasks) -> Setting:
    return Setting(tasks, parents, _weights(0.0, high, shape), "zoo:base")


_MODELS = "../runs/showcase/models"


def _smollm2(groups: int | str, shape: str, low: float = 0.0) -> Setting:
    parents = [f"{_MODELS}/{name}" for name in ("json", "sums", "backwards")]
    space = _weights(low, 1.0, f"embeddings: false, groups: {groups}, {shape}")
    return Setting(SUMS_AND_BACKWARDS, parents, space, f"{_MODELS}/base", "bfloat16")


def _spanish(family: str, base: str) -> Setting:
    parents = [f"{_MODELS}/{family}{name}" for name in ("spanish", "sums")]
    space = _weights(0.0, 1.5, "embeddings: false, groups: 3")
    return Setting(SPANISH, parents, space, f"{_MODELS}/{base}", "bfloat16")


def _qwen(shape: str) -> Setting:
    parents = [f"{_MODELS}/qwen-{name}" for name in ("json", "backwards")]
    space = _weights(0.0, 1.5, f"embeddings: false, {shape}")
    return Setting(BACKWARDS, parents, space, f"{_MODELS}/qwen", "bfloat16")


_PARTS = "components: [attention, mlp, norm]"  # and the rest
_FINE = f"embeddings: false, groups: 4, {_PARTS}"

EMBEDDED: dict[str, Setting] = {
    "weights 8": _embedded(_TWO, 2.0, "embeddings: true, groups: 2", L2_MATHS),
    "weights 32": _embedded(_TWO, 2.0, _FINE, L2_MATHS),
    "weights 128": _embedded(_EIGHT, 0.6, _FINE, L2_MATHS),
    "slots 96": Setting(L2_MATHS, _TWO, f"kind: dataflow, variant: sakana, {_PATH}"),
    "switches 96": Setting(L2_MATHS, _TWO, f"kind: dataflow, variant: structured, {_PATH}"),
    "skills 24": _embedded(_THREE, 2.0, "embeddings: true, groups: each", SKILLS),
}
"""Name with the number of genes -> a space over the embedded models."""

BY_NAME: dict[str, Setting] = {
    "weights 16": _embedded(_TWO, 2.0, f"embeddings: false, groups: 2, {_PARTS}", L2_MATHS),
    "weights 24": _embedded(_TWO, 2.0, f"embeddings: false, groups: 3, {_PARTS}", L2_MATHS),
    "weights 48": _embedded(_TWO, 2.0, f"embeddings: false, groups: each, {_PARTS}", L2_MATHS),
    # A weight for each tensor: too many for optimizers that learn one number a candidate.
    "weights 112": _embedded(
        _TWO, 2.0, "embeddings: true, groups: each, components: each", L2_MATHS
    ),
}
"""Spaces over the embedded models that are searched by name only."""

_ATTENTION = "components: [attention]"  # the rest is the feed-forward part and norms

REAL: dict[str, Setting] = {
    # No weight is 0, which leaves an expert out. Grids of 2, 3, and 5 weights: 8, 27, 125 points.
    "smollm2 grid": _smollm2("one", "components: []", low=0.2),
    "smollm2 6": _spanish("", "base"),
    "smollm2 9": _smollm2(3, "components: []"),
    "smollm2 24": _smollm2(4, _ATTENTION),
    "smollm2 60": _smollm2(10, _ATTENTION),
    "smollm2 180": _smollm2("each", _ATTENTION),
    "gemma 6": _spanish("gemma-", "gemma"),
    "qwen 6": _qwen("groups: 3"),
    "qwen 24": _qwen(f"groups: 6, {_ATTENTION}"),
    "qwen 96": _qwen(f"groups: each, {_ATTENTION}"),
}
"""The same over real models and their experts, which `python -m scripts.real.prepare` makes."""

SPACES = EMBEDDED | BY_NAME | REAL


@dataclass
class World:
    """A space whose candidates are built and scored.

    Attributes:
        space: genome -> recipe.
        worker: builds models.
        objectives: of its tasks.
        known: (split, digest of a recipe) -> scores; None if it cannot be built or scored.
    """

    space: Space
    worker: Worker
    objectives: Sequence[Objective]
    known: dict[tuple[Split, str], tuple[float, ...] | None] = field(default_factory=dict)

    @property
    def evaluator(self) -> Evaluator:
        """What scores models."""
        return self.worker.evaluator

    def make(self, segment: Segment) -> Mapping[str, Any]:
        """Make a segment of a descent."""
        return segment.run(self.worker)

    def fitness(self, genome: Genome, split: Split) -> float | None:
        """Return the mean of the objectives on a split, in [0, 1]; None for a failure."""
        scores = self.scores(genome, split)
        return None if scores is None else fmean(scores)

    def scores(self, genome: Genome, split: Split) -> tuple[float, ...] | None:
        """Return the score of each objective on a split, in [0, 1]; None for a failure."""
        recipe = self.space.decode(genome)
        key = (split, recipe.digest)
        if key not in self.known:
            self.known[key] = self._score(recipe, split)
        return self.known[key]

    def marks(self, genome: Genome, documents: Documents) -> Marks | None:
        """Return the marks of some search documents; None for a failure."""
        with contextlib.suppress(CandidateError):
            model = self.worker.build(self.space.decode(genome))
            scores = self.evaluator.score(model, "search", documents)
            return {
                one.task: dict(zip(scores.documents[one.task], scores.values[one.key], strict=True))
                for one in self.objectives
            }
        return None

    def limit(self, documents: int, seed: int) -> None:
        """Let the search have so many documents, of all tasks together; the seed chooses them.

        Those of small numbers are among those of large ones. What it has too few of comes from the
        test documents.
        """
        each, splits = documents // len(self.objectives), self.evaluator.splits
        search, test = dict(splits["search"]), dict(splits["test"])
        for task, ids in search.items():
            own, other = sorted(ids), sorted(test[task])
            random.Random(seed).shuffle(own)
            random.Random(seed).shuffle(other)
            more = max(0, each - len(own))
            search[task] = tuple(sorted([*own, *other[:more]][:each]))
            test[task] = tuple(sorted(other[more:]))
        self.evaluator.splits = {**splits, "search": search, "test": test}
        self.known.clear()

    def _score(self, recipe: Recipe, split: Split) -> tuple[float, ...] | None:
        with contextlib.suppress(CandidateError):
            scores = self.evaluator.score(self.worker.build(recipe), split)
            return tuple(objective.value(scores) for objective in self.objectives)
        return None


@contextmanager
def make_world(name: str, seed: int, documents: int | None = None) -> Iterator[World]:
    """Yield a world.

    Args:
        name: one of `SPACES`.
        seed: chooses the documents of search and validation; all others are for the test.
        documents: number of search documents, of all tasks together; None: as the space says.
    """
    setting = SPACES[name]
    if documents is not None:
        # Where tasks have a split for the search, its number changes no other documents.
        count = documents if setting.tasks.splits else COMMON
        each = count // len(setting.tasks.objectives)
        setting = replace(setting, tasks=replace(setting.tasks, search=each))
    data = setting.search_file(seed)
    with TemporaryFolder() as folder:
        parents = [_built(parent, folder) for parent in data["parents"]]
        problem = prepare(parse({**data, "parents": parents}, "benchmark"), HERE)
        world = World(problem.space, Worker(problem), problem.objectives)
        if documents is not None:
            world.limit(documents, seed)
        yield world


def _built(parent: str, folder: Path) -> str:
    """Return a parent; one of `pool/` is a merge that is built into a folder."""
    if not parent.startswith("pool/"):
        return parent
    name = parent.removeprefix("pool/")
    one, first, other, second = name.split("-")
    recipe = folder / f"{name}.yaml"
    recipe.write_text(f"""
    {{merge_method: task_arithmetic, base_model: "zoo:base", dtype: float32, models: [
      {{model: "zoo:{one}", parameters: {{weight: {first}}}}},
      {{model: "zoo:{other}", parameters: {{weight: {second}}}}}]}}""")
    return str(merge(recipe, folder / name))
