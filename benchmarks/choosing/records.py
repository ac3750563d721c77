"""The searches of `benchmarks/optimizers.py` in files, one for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from choosing.plans import Plan
from choosing.searches import Cost, Search

CHECKPOINTS = (10, 20, 30, 60, 100, 200, 300, 1000)


@dataclass(frozen=True)
class Record:
    """A search with its winners.

    Attributes:
        world: name of the space.
        plan: the optimizer and the documents of candidates.
        seed: of documents and optimizer.
        found: all candidates.
        winners: number of candidates -> score of the winner among these on validation documents
            and on test documents, in [0, 1].
        tests: number of candidates -> the winner's test score for each objective.
        costs: number of candidates -> what the search has cost up to there; searches that were
            recorded without it have none.
    """

    world: str
    plan: Plan
    seed: int
    found: Search
    winners: Mapping[int, tuple[float, float]]
    tests: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    costs: Mapping[int, Cost] = field(default_factory=dict)

    @property
    def optimizer(self) -> str:
        """Name of the optimizer, with the documents unless they are as the world says."""
        return self.plan.label


class Records:
    """A folder of records.

    Args:
        folder: it is created.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, world: str, plan: Plan, seed: int, candidates: int) -> bool:
        """Return whether there is a record of this search."""
        return self._file(world, plan, seed, candidates).exists()

    def add(self, record: Record, candidates: int) -> None:
        """Write a record of a search for so many candidates."""
        found = record.found
        data = {
            "world": record.world,
            "optimizer": record.plan.optimizer,
            "plan": asdict(record.plan),
            "seed": record.seed,
            "seconds": found.seconds,
            "scoring": found.scoring,
            "winners": {str(count): pair for count, pair in record.winners.items()},
            "tests": {str(count): scores for count, scores in record.tests.items()},
            "costs": {str(count): asdict(cost) for count, cost in record.costs.items()},
            "clock": [round(seconds, 4) for seconds in found.clock],
            "documents": found.documents,
            "generations": found.generations,
            "baselines": found.baselines,
            "values": found.values,
            "genomes": [[round(gene, 6) for gene in genome] for genome in found.genomes],
        }
        file = self._file(record.world, record.plan, record.seed, candidates)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(data))
        part.replace(file)

    def read(self, world: str, candidates: int) -> list[Record]:
        """Return the records of a space with this many candidates."""
        files = self.folder.glob(f"{world.replace(' ', '-')}-*-{candidates}.json")
        return [_record(json.loads(file.read_text())) for file in sorted(files)]

    def _file(self, world: str, plan: Plan, seed: int, candidates: int) -> Path:
        # Names of old records have the spaces of `gradient whole`.
        name = plan.label if plan.label == plan.optimizer else plan.label.replace(" ", "-")
        return self.folder / f"{world.replace(' ', '-')}-{name}-{seed}-{candidates}.json"


def _record(data: dict) -> Record:
    found = Search(
        [tuple(genome) for genome in data["genomes"]],
        data["values"],
        data["seconds"],
        data.get("scoring", 0.0),
        clock=data.get("clock", ()),
        documents=data.get("documents", ()),
        generations=data.get("generations", ()),
        baselines=data.get("baselines", 0),
    )
    return Record(
        data["world"],
        Plan(**data["plan"]) if "plan" in data else Plan(data["optimizer"]),
        data["seed"],
        found,
        {int(count): (valid, tested) for count, (valid, tested) in data["winners"].items()},
        {int(count): tuple(scores) for count, scores in data.get("tests", {}).items()},
        {int(count): Cost(**cost) for count, cost in data.get("costs", {}).items()},
    )
