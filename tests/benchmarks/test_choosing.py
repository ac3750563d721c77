"""The searches of `benchmarks/optimizers.py` try the baselines first and validate five winners."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from scripted import space

pytestmark = pytest.mark.thorough

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def choosing(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import choosing.records
    import choosing.searches
    import choosing.table

    return SimpleNamespace(
        records=choosing.records, searches=choosing.searches, table=choosing.table
    )


def found(choosing, optimizer, value, seed=0):
    return choosing.searches.search(optimizer, space(), value, 40, seed)


def test_a_search_tries_the_baselines_first_and_learns(choosing):
    cma = found(choosing, "cma", lambda genome: -abs(genome[0] - 0.2) - abs(genome[1] - 0.7))
    baselines = [genome for genomes in space().baseline_genomes().values() for genome in genomes]
    assert cma.genomes[: len(baselines)] == baselines and len(cma.genomes) == 40
    assert max(cma.values[20:]) > max(cma.values[:20])


def test_the_winner_is_best_on_validation_documents_among_the_five_best(choosing):
    search = found(choosing, "random", lambda genome: None if genome[0] > 0.9 else genome[1])
    five = search.finalists(40)
    assert len(five) == 5 and all(search.values[number] is not None for number in five)
    best, value = choosing.searches.winner(search, 40, lambda genome: -genome[1])
    assert best == five[-1] and value == -search.genomes[best][1]


def test_records_are_read_back_and_compared_with_random_search(choosing, tmp_path):
    records = choosing.records.Records(tmp_path)
    for name, score in (("cma", 0.75), ("random", 0.5)):
        search = found(choosing, name, lambda genome: genome[0])
        records.add(choosing.records.Record("two genes", name, 3, search, {40: (0.1, score)}))
    assert records.has("two genes", "cma", 3, 40) and not records.has("two genes", "cma", 4, 40)
    read = records.read("two genes", 40)
    assert choosing.table.differences("x", read) == {"x cma 40": 25.0}
