"""Optimizers find known optima, CMA-ES has the paper's settings, and no search restarts."""

import dataclasses
import subprocess
import sys

import cma
import numpy as np
import pytest

from evomerge.optimize import (
    GP_CANDIDATES,
    GP_GENES,
    GP_OBJECTIVES,
    choose,
    create,
    optimizer_names,
)
from evomerge.space.protocol import Gene

pytestmark = pytest.mark.thorough

TARGET = np.array([0.2, 1.4, 0.9, 0.4, 1.7, 1.0])
REAL = [Gene(f"g{i}", "real", 0.0, 2.0, 1.0) for i in range(len(TARGET))]


def minimise(optimizer, loss, trials):
    best = (np.inf, ())
    for _ in range(trials):
        genome = optimizer.ask()
        best = min(best, (loss(genome), genome))
        optimizer.tell(genome, [-loss(genome)])
    return best


def sphere(genome):
    return float(((np.array(genome) - TARGET) ** 2).sum())


@pytest.mark.parametrize("diagonal", [False, True])
def test_cma_is_pycma_as_the_paper_used_it(diagonal):
    """x0 = 0.5, sigma = 1/6, population 4 + floor(3 ln n); in units of steps, bounds are +-3."""
    genes = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(12)]
    target = np.linspace(-0.1, 1.1, 12)
    optimizer = create("diagonal-cma" if diagonal else "cma", genes, seed=7)
    raw = cma.CMAEvolutionStrategy(
        [0.0] * 12,
        1.0,
        {
            "bounds": [-3.0, 3.0],
            "seed": np.nan,
            "randn": np.random.RandomState(7).randn,
            "CMA_diagonal": diagonal,
            "verbose": -9,
        },
    )
    assert optimizer.population == raw.popsize == 4 + int(3 * np.log(12))
    for _ in range(40):
        steps = raw.ask()
        points = [0.5 + step / 6 for step in steps]
        losses = [float((np.arange(1, 13) * (point - target) ** 2).sum()) for point in points]
        for point, loss in zip(points, losses, strict=True):
            genome = optimizer.ask()
            assert np.abs(np.array(genome) - point).max() < 1e-9
            optimizer.tell(genome, [-loss])
        raw.tell(steps, losses)


@pytest.mark.parametrize("name", ["cma", "diagonal-cma"])
def test_a_plateau_causes_no_restart(name):
    """After a restart the samples would be scattered around the start again."""
    genes = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(6)]
    target = np.array([0.15, 0.85, 0.2, 0.8, 0.1, 0.9])

    def accuracy(genome):
        return np.floor(50 * (1 - np.abs(np.array(genome) - target).mean())) / 50

    optimizer, distances = create(name, genes, seed=2), []
    for _ in range(1500):
        genome = optimizer.ask()
        distances.append(np.abs(np.array(genome) - target).mean())
        optimizer.tell(genome, [float(accuracy(genome))])
    assert np.mean(distances[:9]) > 0.25
    assert max(distances[-600:]) < 0.2


def test_many_points_of_others_and_early_asks_lose_no_generation():
    """pycma refuses two updates without a sample between them."""
    for others, batch in ((25, 1), (0, 30)):
        optimizer = create("cma", REAL, seed=0)
        for i in range(others):
            optimizer.tell((i / others,) * len(REAL), [-sphere((i / others,) * len(REAL))])
        best = np.inf
        for _ in range(600 // batch):
            for genome in [optimizer.ask() for _ in range(batch)]:
                best = min(best, sphere(genome))
                optimizer.tell(genome, [-sphere(genome)])
        assert best < (1e-4 if batch == 1 else 1e-2)


@pytest.mark.parametrize(("others", "order"), [(0, "reversed"), (20, "asked")])
def test_hundreds_of_genes_adapt_their_step_in_any_order_of_telling(others, order):
    genes = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(310)]
    target = np.random.RandomState(0).uniform(0.2, 0.8, len(genes))
    optimizer = create("diagonal-cma", genes, seed=0)
    for i in range(others):
        optimizer.tell((i / 20,) * len(genes), [-float(((i / 20 - target) ** 2).sum())])
    for _ in range(1200 // optimizer.population):
        genomes = [optimizer.ask() for _ in range(optimizer.population)]
        for genome in genomes if order == "asked" else genomes[::-1]:
            optimizer.tell(genome, [-float(((np.array(genome) - target) ** 2).sum())])
    spread = np.std(genomes, axis=0).mean()
    assert spread < 1 / 6 / 3


@pytest.mark.parametrize("name", ["cma", "diagonal-cma", "cma-margin"])
def test_a_first_generation_is_of_own_samples(name):
    """Else steps would be learned from baselines, which say nothing about them."""
    genes = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(12)]
    optimizer, plain = create(name, genes, 3), create(name, genes, 3)
    for number in range(30):
        corner = tuple(map(float, np.random.RandomState(number).randint(2, size=12)))
        optimizer.tell(corner, [-100.0])
    # The mean is no step, however good it is.
    optimizer.tell(tuple(gene.start for gene in genes), [100.0])
    for _ in range(3 * optimizer.population):
        genome = optimizer.ask()
        assert genome == plain.ask()  # bad ones change nothing, so they cost what they are
        for each in (optimizer, plain):
            each.tell(genome, [-sum(genome)])


@pytest.mark.parametrize(
    ("order", "most"), [("asked", 0.0045), pytest.param("random", 0.009, marks=pytest.mark.long)]
)
def test_many_open_trials_slow_no_search_of_hundreds_of_genes_down(order, most):
    """With one open trial the loss is 0.0017; old samples must not pull the mean back."""
    genes = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(320)]
    target = np.random.RandomState(0).uniform(0.2, 0.8, len(genes))
    random, waiting, best = np.random.RandomState(0), [], np.inf
    optimizer = create("diagonal-cma", genes, seed=0)
    for _ in range(2500):
        waiting.append(optimizer.ask())
        if len(waiting) >= 64:
            place = 0 if order == "asked" else random.randint(len(waiting))
            genome = waiting.pop(place)
            loss = float(((np.array(genome) - target) ** 2).mean())
            best = min(best, loss)
            optimizer.tell(genome, [-loss])
    assert best < most


@pytest.mark.parametrize("name", ["cma", "cma-margin", "nevergrad:DE", "nevergrad:OnePlusOne"])
def test_recorded_genomes_bring_another_optimizer_to_the_same_place(name):
    first, recorded = create(name, REAL, seed=1), []
    for _ in range(400):
        recorded.append(first.ask())
        first.tell(recorded[-1], [-sphere(recorded[-1])])
    other = create(name, REAL, seed=2)
    for genome in recorded:
        other.replay(genome)
        other.tell(genome, [-sphere(genome)])
    going_on = minimise(other, sphere, 100)[0]
    assert going_on <= 20 * max(1e-7, min(map(sphere, recorded)))
    assert going_on < minimise(create(name, REAL, seed=2), sphere, 100)[0] / 5


@pytest.mark.parametrize("name", ["cma", "cma-margin", "nevergrad:DE", "nevergrad:PSO"])
def test_recorded_genomes_that_differ_by_next_to_nothing_change_nothing(name):
    plain, other = create(name, REAL, seed=1), create(name, REAL, seed=1)
    for _ in range(120):
        genome = plain.ask()
        recorded = tuple(min(2.0, value + 1e-9) for value in genome)
        assert other.replay(recorded) == genome
        plain.tell(genome, [-sphere(genome)])
        other.tell(recorded, [-sphere(genome)])


NUMBER = Gene("number", "real", 0.0, 1.0, 0.5)
FLAG = Gene("flag", "binary", 0, 1, 0.5)
SLOT = Gene("slot", "real", -2.0, 2.0, -1.0, sigma=1.0, switch=True)


@pytest.mark.parametrize(
    "genes, population, name",
    [
        ([NUMBER] * 200, None, "cma"),
        ([NUMBER] * 201, None, "diagonal-cma"),
        ([NUMBER, FLAG], None, "cma-margin"),
        ([NUMBER, FLAG, FLAG], None, "two-points-de"),
        ([SLOT, SLOT, NUMBER], None, "discrete-lengler"),
        ([SLOT, NUMBER], None, "cma"),
        ([SLOT, SLOT], 16, "two-points-de"),
    ],
)
def test_the_default_optimizer_suits_the_genes(genes, population, name):
    genes = [dataclasses.replace(gene, name=f"g{i}") for i, gene in enumerate(genes)]
    chosen, named = (create(item, genes, 0, population) for item in ("auto", name))
    for _ in range(60):
        genome = chosen.ask()
        assert genome == named.ask()
        for optimizer in (chosen, named):
            optimizer.tell(genome, [-sum(genome)])


@pytest.mark.parametrize(
    ("genes", "candidates", "name", "of_fronts"),
    [
        ([NUMBER] * GP_GENES, GP_CANDIDATES, "gp", "gp"),
        ([NUMBER] * GP_GENES, GP_CANDIDATES + 1, "cma", "nsga2"),
        ([NUMBER] * GP_GENES, None, "cma", "nsga2"),
        ([NUMBER] * (GP_GENES + 1), GP_CANDIDATES, "cma", "nsga2"),
        ([NUMBER, FLAG], GP_CANDIDATES, "cma-margin", "nsga2"),
    ],
)
def test_the_default_for_few_candidates_is_a_gaussian_process(genes, candidates, name, of_fronts):
    assert choose(genes, None, candidates) == name
    assert choose(genes, None, candidates, objectives=GP_OBJECTIVES) == of_fronts
    assert choose(genes, None, candidates, objectives=GP_OBJECTIVES + 1) == "nsga2"


def test_a_grid_gets_finer_and_never_repeats_itself():
    genes = [Gene("x", "real", 0.0, 1.0, 0.5), Gene("m", "choice", 0, 2, 0)]
    optimizer = create("grid", genes, seed=0, budget=6)
    points = [optimizer.ask() for _ in range(2 * 3 + 3 + 2 * 3)]
    assert len(set(points)) == len(points)
    assert {x for x, _ in points[:6]} == {0.0, 1.0}
    assert {x for x, _ in points[6:9]} == {0.5}
    assert {x for x, _ in points[9:]} == {0.25, 0.75}
    flags = create("grid", [Gene("flag", "binary", 0, 1, 0)], seed=0, budget=60)
    assert {flags.ask() for _ in range(60)} == {(0.0,), (1.0,)}  # there is no finer one


HEAVY = ("torch", "numba", "nevergrad", "cma", "optuna", "cmaes", "pymoo", "lm_eval", "scipy")
LISTED = f"""
import sys
from evomerge.optimize import optimizer_names
assert len(optimizer_names()) > 10 and "numpy" not in sys.modules
import evomerge.problem.resolve
from evomerge.merging.methods import get_method, method_names
from evomerge.space.knobs import plan_knobs
for name in method_names():
    knobs = {{knob.name: (knob.low, knob.high) for knob in get_method(name).knobs}}
    assert len(plan_knobs([get_method(name)], knobs).searched) >= bool(knobs)
print(*sys.modules.keys() & {HEAVY})
"""


def test_names_and_ranges_are_listed_without_importing_what_they_need():
    done = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")
    assert all(line and "\n" not in line for line in optimizer_names().values())
