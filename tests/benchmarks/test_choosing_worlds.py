"""The spaces of `benchmarks/optimizers.py` are what the documentation says, and can be searched."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
import yaml

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "runs" / "showcase" / "models"
THREE = ("json", "sums", "backwards")


@pytest.fixture
def choosing(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the benchmark sets it if it is not set
    import choosing.records
    import choosing.worlds
    import optimizers

    return SimpleNamespace(optimizers=optimizers, records=choosing.records, worlds=choosing.worlds)


def config(name):
    return yaml.safe_load((ROOT / "configs" / name).read_text(encoding="utf-8"))


def with_few_documents(choosing, name, monkeypatch):
    setting = choosing.worlds.SPACES[name]
    tasks = replace(setting.tasks, search=4, validation=2, test=4)
    monkeypatch.setitem(choosing.worlds.SPACES, name, replace(setting, tasks=tasks))


def searched(choosing, name, optimizers, folder):
    """Search eight candidates with each optimizer. Returns the records."""
    records = choosing.records.Records(folder)
    choosing.optimizers.run_missing(records, name, optimizers, 0, 8)
    return records.read(name, 8)


def test_three_skills_are_searched_in_the_space_and_for_the_tasks_of_multitask(choosing):
    own, other = choosing.worlds.SPACES["skills 24"].search_file(0), config("multitask.yaml")
    for key in ("parents", "base", "dtype", "objectives"):
        assert own[key] == other[key]
    assert own["space"] == other["space"]


def test_the_real_spaces_have_the_experts_and_tasks_of_the_showcase_with_three(choosing):
    other = config("showcase-three.yaml")
    for setting in choosing.worlds.REAL.values():
        own = setting.search_file(0)
        for key in ("parents", "base", "dtype", "objectives"):
            assert own[key] == other[key]
        assert own["evaluation"]["include"] == other["evaluation"]["include"]
        for split in ("search", "validation", "test"):
            task_split = other["evaluation"][split]["task_split"]
            assert own["evaluation"][split]["task_split"] == task_split


def test_a_search_for_three_skills_is_recorded_with_the_score_of_each_task(
    choosing, monkeypatch, tmp_path
):
    with_few_documents(choosing, "skills 24", monkeypatch)
    for record in searched(choosing, "skills 24", ["cma", "random"], tmp_path):
        language, maths, facts, _ = record.found.values[:4]
        assert language > 0.25 and maths > 0.25 and facts > 0.2  # each knows its own task
        assert len(record.tests[8]) == 4 and len(record.found.genomes[5]) == 24
        assert math.isclose(record.winners[8][1], fmean(record.tests[8]))
        assert record.found.scoring > 0


@pytest.mark.long
@pytest.mark.skipif(
    not all((MODELS / name).is_dir() for name in ("base", *THREE)),
    reason="no experts of SmolLM2; `python -m scripts.real.prepare` makes them",
)
@pytest.mark.parametrize("name", ["smollm2 grid", "smollm2 24", "smollm2 60", "smollm2 180"])
def test_a_space_of_the_real_model_is_searched(choosing, monkeypatch, tmp_path, name):
    with_few_documents(choosing, name, monkeypatch)
    optimizer = "grid" if name == "smollm2 grid" else "sobol"
    (record,) = searched(choosing, name, [optimizer], tmp_path)
    assert len(record.tests[8]) == 2 and None not in record.found.values
    genes = {len(genome) for genome in record.found.genomes}
    assert genes == {3 if name == "smollm2 grid" else int(name.split()[1])}
