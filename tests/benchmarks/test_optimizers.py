"""`benchmarks/optimizers.py`: its spaces are those of the documentation, and how it searches them.

A search tries the baselines first, and validates five winners.
"""

import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import yaml
from choosing.plans import Plan
from choosing.records import Record, Records
from choosing.searches import Validation, search
from choosing.table import differences
from choosing.worlds import REAL, SPACES, make_world
from optimizers import run_missing
from scripted import space

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "runs" / "showcase" / "models"
EXPERTS = (
    *("json", "sums", "backwards", "spanish"),
    *("gemma-sums", "gemma-spanish", "qwen-json", "qwen-backwards"),
)


def found(optimizer, value, seed=0):
    return search(optimizer, space(), value, 40, seed)


def test_a_search_tries_the_baselines_first_and_learns():
    cma = found("cma", lambda genome: -abs(genome[0] - 0.2) - abs(genome[1] - 0.7))
    baselines = [genome for genomes in space().baseline_genomes().values() for genome in genomes]
    assert cma.genomes[: len(baselines)] == baselines and len(cma.genomes) == 40
    assert max(cma.values[20:]) > max(cma.values[:20])


def test_the_winner_is_best_on_validation_documents_among_the_five_best_and_the_baselines():
    tried = found("random", lambda genome: None if genome[0] > 0.9 else genome[1])
    five = tried.finalists(40)
    assert len(five) == 5 and all(tried.values[number] is not None for number in five)
    best, value, cost = Validation(lambda genome: -genome[1], 10).winner(tried, 40)
    several = {*five, *range(tried.baselines)}
    assert tried.baselines == 3 and best == min(several, key=lambda n: tried.genomes[n][1])
    assert value == -tried.genomes[best][1]
    assert (cost.candidates, cost.documents - cost.search) == (40, 10 * len(several))


def test_records_are_read_back_and_compared_with_random_search(tmp_path):
    records = Records(tmp_path)
    for name, score in (("cma", 0.75), ("random", 0.5)):
        tried = found(name, lambda genome: genome[0])
        records.add(Record("two genes", Plan(name), 3, tried, {40: (0.1, score)}), 40)
    few = Plan("cma", documents=25, fresh=True)
    assert records.has("two genes", Plan("cma"), 3, 40)
    assert not records.has("two genes", Plan("cma"), 4, 40)
    assert not records.has("two genes", few, 3, 40)
    read = records.read("two genes", 40)
    assert differences("x", read) == {"x cma 40": 25.0}


def config(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    return yaml.safe_load(text.replace("../../runs", "../runs"))


def with_few_documents(name, monkeypatch):
    setting = SPACES[name]
    tasks = replace(setting.tasks, search=4, validation=2, test=4)
    monkeypatch.setitem(SPACES, name, replace(setting, tasks=tasks))


def searched(name, optimizers, folder):
    """Search eight candidates with each optimizer. Returns the records."""
    records = Records(folder)
    run_missing(records, name, [Plan(optimizer) for optimizer in optimizers], 0, 8, [4])
    return records.read(name, 8)


def test_three_skills_are_searched_in_the_space_and_for_the_tasks_of_multitask():
    own, other = SPACES["skills 24"].search_file(0), config("configs/multitask.yaml")
    for key in ("parents", "base", "dtype", "objectives"):
        assert own[key] == other[key]
    assert own["space"] == other["space"]


def test_each_tensor_has_a_weight_of_its_own():
    with make_world("weights 112", 0) as world:
        tensors = {gene.name.split(".")[1] for gene in world.space.genes if "[5:6]" in gene.name}
        assert len(world.space.genes) == 112 and len(tensors) == 9


def test_the_real_spaces_have_the_experts_and_tasks_of_the_showcase():
    for name, setting in REAL.items():
        family, size = name.split()
        file = family if family != "smollm2" else "spanish" if size == "6" else "three"
        other = config(f"scripts/real/{file}.yaml")
        own = setting.search_file(0)
        for key in ("parents", "base", "dtype", "objectives"):
            assert own[key] == other[key]
        assert own["evaluation"]["include"] == other["evaluation"]["include"]
        for split in ("search", "validation", "test"):
            task_split = other["evaluation"][split]["task_split"]
            assert own["evaluation"][split]["task_split"] == task_split


def test_a_search_for_three_skills_is_recorded_with_the_score_of_each_task(monkeypatch, tmp_path):
    with_few_documents("skills 24", monkeypatch)
    for record in searched("skills 24", ["cma", "random"], tmp_path):
        language, maths, facts, _ = record.found.values[:4]
        assert language > 0.25 and maths > 0.25 and facts > 0.2  # each knows its own task
        assert len(record.tests[4]) == len(record.tests[8]) == 4
        assert len(record.found.genomes[5]) == 24
        assert math.isclose(record.winners[8][1], fmean(record.tests[8]))
        assert record.found.scoring > 0


def test_a_fresh_search_counts_the_documents_of_all_that_it_scores(tmp_path):
    """Three baselines and, after two generations of ten, the mean on all 20; the others on 4."""
    records, plan = Records(tmp_path), Plan("cma", documents=4, fresh=True, pool=20, every=2)
    run_missing(records, "weights 8", [plan], 0, 24, [13])
    (record,) = records.read("weights 8", 24)
    assert record.found.documents == [20] * 3 + [4] * 20 + [20]
    assert record.found.generations == [None] * 3 + [1] * 10 + [2] * 10 + [None]
    assert record.costs[24].search == 160 and record.costs[13].search == 100
    assert record.costs[24].seconds > record.costs[13].seconds > 0


@pytest.mark.long
@pytest.mark.skipif(
    not all((MODELS / name).is_dir() for name in ("base", "gemma", "qwen", *EXPERTS)),
    reason="no experts of the real models; `python -m scripts.real.prepare` makes them",
)
@pytest.mark.parametrize("name", REAL)
def test_a_space_of_the_real_model_is_searched(monkeypatch, tmp_path, name):
    with_few_documents(name, monkeypatch)
    optimizer = "grid" if name == "smollm2 grid" else "sobol"
    (record,) = searched(name, [optimizer], tmp_path)
    assert len(record.tests[8]) == len(SPACES[name].tasks.objectives)
    assert None not in record.found.values
    genes = {len(genome) for genome in record.found.genomes}
    assert genes == {3 if name == "smollm2 grid" else int(name.split()[1])}
