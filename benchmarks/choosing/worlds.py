"""What the optimizers search: four spaces over merges of the embedded models, really scored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from evomerge.config.schema import parse
from evomerge.errors import CandidateError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.execute.worker import Worker
from evomerge.recipe import Recipe
from evomerge.scores import Objective, Split, fitness
from evomerge.setup.runs import prepare, with_merges_built
from evomerge.setup.worker import MemoryShare, make_worker
from evomerge.space.protocol import Gene, Genome, Space

HERE = Path(__file__).resolve().parents[1]
SEARCH, VALIDATION = 100, 200

_ARITHMETIC = "kind: parameters, method: task_arithmetic, knobs: {weight: [0.0, 2.0]}"
_FINE = "embeddings: false, groups: 4, components: [attention, mlp, norm]"
_PATH = (
    "host: zoo:maths, repeats: 8, scales: 1.0, ends: free, layers: [4, 12], "
    "outside: {embeddings: zoo:language, head: zoo:language}"
)
_POOL = "merge:choosing/pool"

SPACES: dict[str, tuple[str, str]] = {
    "weights 8": ("[zoo:language, zoo:maths]", f"{_ARITHMETIC}, groups: 2, embeddings: true"),
    "weights 32": ("[zoo:language, zoo:maths]", f"{_ARITHMETIC}, {_FINE}"),
    "weights 128": (
        f"[zoo:language, zoo:maths, zoo:facts, {_POOL}/language-maths.yaml, "
        f"{_POOL}/language-more-maths.yaml, {_POOL}/more-language-maths.yaml, "
        f"{_POOL}/language-facts.yaml, {_POOL}/maths-facts.yaml]",
        f"kind: parameters, method: task_arithmetic, knobs: {{weight: [0.0, 0.6]}}, {_FINE}",
    ),
    "slots 96": ("[zoo:language, zoo:maths]", f"kind: dataflow, variant: sakana, {_PATH}"),
    "switches 96": ("[zoo:language, zoo:maths]", f"kind: dataflow, variant: structured, {_PATH}"),
}
"""Name with the number of genes -> parents and space, as in a search file."""


@dataclass
class World:
    """A space whose candidates are built and scored.

    Attributes:
        genes: the genes of the space.
        baselines: genomes of the parents and the uniform merge; every search tries them first.
        space: genome -> recipe.
        worker: builds models.
        objective: the only objective.
        known: (split, digest of a recipe) -> fitness; None if it cannot be built or scored.
    """

    genes: Sequence[Gene]
    baselines: Sequence[Genome]
    space: Space
    worker: Worker
    objective: Objective
    known: dict[tuple[Split, str], float | None] = field(default_factory=dict)

    @property
    def evaluator(self) -> Evaluator:
        """What scores models."""
        return self.worker.evaluator

    def fitness(self, genome: Genome, split: Split) -> float | None:
        """Return the share of documents of a split that are answered; None for a failure."""
        recipe = self.space.decode(genome)
        key = (split, recipe.digest)
        if key not in self.known:
            self.known[key] = self._score(recipe, split)
        return self.known[key]

    def _score(self, recipe: Recipe, split: Split) -> float | None:
        with contextlib.suppress(CandidateError):
            scores = self.evaluator.score(self.worker.build(recipe), split)
            return fitness([self.objective], scores)
        return None


@contextmanager
def make_world(name: str, seed: int) -> Iterator[World]:
    """Yield a world.

    Args:
        name: one of `SPACES`.
        seed: chooses the documents of search and validation; all others are for the test.
    """
    parents, space = SPACES[name]
    base = "base: zoo:base" if name.startswith("weights") else ""
    text = f"""
    seed: {seed}
    parents: {parents}
    {base}
    dtype: float32
    space: {{{space}}}
    objectives: [{{task: zoo_l2_maths, metric: exact_match}}]
    evaluation: {{include: [zoo:tasks], threads: 1, search: {{documents: {SEARCH}}},
                  validation: {{documents: {VALIDATION}}}, test: {{documents: all}}}}
    """
    problem = prepare(parse(yaml.safe_load(text), "benchmark"), HERE)
    with with_merges_built(problem) as built:
        yield World(
            list(built.space.genes),
            list(built.space.baseline_genomes().values()),
            built.space,
            make_worker(built, MemoryShare.of_machine(1)),
            built.objectives[0],
        )
