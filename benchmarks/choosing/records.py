"""The searches of `benchmarks/optimizers.py` in files, one for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from choosing.searches import Search

CHECKPOINTS = (10, 20, 30, 60, 100, 200, 300, 1000)


@dataclass(frozen=True)
class Record:
    """A search with its winners.

    Attributes:
        world: name of the space.
        optimizer: its name.
        seed: of documents and optimizer.
        found: all candidates.
        winners: number of candidates -> score of the winner among these on validation documents
            and on test documents, in [0, 1].
        tests: number of candidates -> the winner's test score for each objective.
    """

    world: str
    optimizer: str
    seed: int
    found: Search
    winners: Mapping[int, tuple[float, float]]
    tests: Mapping[int, tuple[float, ...]] = field(default_factory=dict)


class Records:
    """A folder of records.

    Args:
        folder: it is created.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, world: str, optimizer: str, seed: int, candidates: int) -> bool:
        """Return whether there is a record of this search."""
        return self._file(world, optimizer, seed, candidates).exists()

    def add(self, record: Record) -> None:
        """Write a record."""
        found = record.found
        data = {
            "world": record.world,
            "optimizer": record.optimizer,
            "seed": record.seed,
            "seconds": found.seconds,
            "scoring": found.scoring,
            "winners": {str(count): pair for count, pair in record.winners.items()},
            "tests": {str(count): scores for count, scores in record.tests.items()},
            "values": found.values,
            "genomes": [[round(gene, 6) for gene in genome] for genome in found.genomes],
        }
        file = self._file(record.world, record.optimizer, record.seed, len(found.genomes))
        part = file.with_suffix(".part")
        part.write_text(json.dumps(data))
        part.replace(file)

    def read(self, world: str, candidates: int) -> list[Record]:
        """Return the records of a space with this many candidates."""
        files = self.folder.glob(f"{world.replace(' ', '-')}-*-{candidates}.json")
        return [_record(json.loads(file.read_text())) for file in sorted(files)]

    def _file(self, world: str, optimizer: str, seed: int, candidates: int) -> Path:
        return self.folder / f"{world.replace(' ', '-')}-{optimizer}-{seed}-{candidates}.json"


def _record(data: dict) -> Record:
    genomes = [tuple(genome) for genome in data["genomes"]]
    return Record(
        data["world"],
        data["optimizer"],
        data["seed"],
        Search(genomes, data["values"], data["seconds"], data.get("scoring", 0.0)),
        {int(count): (valid, tested) for count, (valid, tested) in data["winners"].items()},
        {int(count): tuple(scores) for count, scores in data.get("tests", {}).items()},
    )
