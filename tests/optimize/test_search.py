"""Optimizers find known optima, CMA-ES has the paper's settings, and no search restarts."""

import dataclasses
import subprocess
import sys

import cma
import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.optimize import create, optimizer_names
from evomerge.space.protocol import Gene

pytestmark = pytest.mark.thorough

TARGET = np.array([0.2, 1.4, 0.9, 0.4, 1.7, 1.0])
REAL = [Gene(f"g{i}", "real", 0.0, 2.0, 1.0) for i in range(len(TARGET))]


def search(optimizer, loss, trials):
    """Return the best loss and its genome."""
    best = (np.inf, ())
    for _ in range(trials):
        trial, genome = optimizer.ask()
        best = min(best, (loss(genome), genome))
        optimizer.tell(trial, [-loss(genome)])
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
            trial, genome = optimizer.ask()
            assert np.abs(np.array(genome) - point).max() < 1e-9
            optimizer.tell(trial, [-loss])
        raw.tell(steps, losses)


@pytest.mark.parametrize("name", ["cma", "diagonal-cma"])
def test_a_plateau_causes_no_restart(name):
    """Accuracies are multiples of 1/50; the search keeps the distribution that it has learned.

    After a restart the samples would be scattered around the start again.
    """
    genes = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(6)]
    target = np.array([0.15, 0.85, 0.2, 0.8, 0.1, 0.9])

    def accuracy(genome):
        return np.floor(50 * (1 - np.abs(np.array(genome) - target).mean())) / 50

    optimizer, distances = create(name, genes, seed=2), []
    for _ in range(1500):
        trial, genome = optimizer.ask()
        distances.append(np.abs(np.array(genome) - target).mean())
        optimizer.tell(trial, [float(accuracy(genome))])
    assert np.mean(distances[:9]) > 0.25
    assert max(distances[-600:]) < 0.2


def test_many_enqueued_points_and_early_asks_lose_no_generation():
    """pycma refuses two updates without a sample between them."""
    for enqueued, batch in ((25, 1), (0, 30)):
        optimizer = create("cma", REAL, seed=0)
        for i in range(enqueued):
            optimizer.enqueue((i / enqueued,) * len(REAL))
        best = np.inf
        for _ in range(600 // batch):
            trials = [optimizer.ask() for _ in range(batch)]
            for trial, genome in trials:
                best = min(best, sphere(genome))
                optimizer.tell(trial, [-sphere(genome)])
        assert best < (1e-4 if batch == 1 else 1e-2)


@pytest.mark.parametrize(("enqueued", "order"), [(0, "reversed"), (20, "asked")])
def test_hundreds_of_genes_adapt_their_step_in_any_order_of_telling(enqueued, order):
    """Two mirrored points adapt the step size; it must shrink in whatever order they are told."""
    genes = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(310)]
    target = np.random.RandomState(0).uniform(0.2, 0.8, len(genes))
    optimizer = create("diagonal-cma", genes, seed=0)
    for i in range(enqueued):
        optimizer.enqueue((i / 20,) * len(genes))
        optimizer.tell(optimizer.ask()[0], [-float(((i / 20 - target) ** 2).sum())])
    for _ in range(1200 // optimizer.population):
        trials = [optimizer.ask() for _ in range(optimizer.population)]
        for trial, genome in trials if order == "asked" else trials[::-1]:
            optimizer.tell(trial, [-float(((np.array(genome) - target) ** 2).sum())])
    spread = np.std([genome for _, genome in trials], axis=0).mean()
    assert spread < 1 / 6 / 3


@pytest.mark.parametrize("name", ["cma", "diagonal-cma", "cma-margin"])
def test_a_first_generation_is_of_own_samples(name):
    """Else steps would be learned from baselines, which say nothing about them."""
    genes = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(12)]
    optimizer, plain = create(name, genes, 3), create(name, genes, 3)
    for number in range(30):
        optimizer.enqueue(tuple(map(float, np.random.RandomState(number).randint(2, size=12))))
        optimizer.tell(optimizer.ask()[0], [-100.0])
    optimizer.enqueue(tuple(gene.start for gene in genes))
    optimizer.tell(optimizer.ask()[0], [100.0])  # the mean is no step, however good it is
    for _ in range(3 * optimizer.population):
        trial, genome = optimizer.ask()
        other, same = plain.ask()
        assert genome == same  # bad ones change nothing, so they cost what they are
        optimizer.tell(trial, [-sum(genome)])
        plain.tell(other, [-sum(same)])


@pytest.mark.parametrize(("order", "most"), [("asked", 0.0045), ("random", 0.009)])
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
            trial, genome = waiting.pop(place)
            loss = float(((np.array(genome) - target) ** 2).mean())
            best = min(best, loss)
            optimizer.tell(trial, [-loss])
    assert best < most


@pytest.mark.parametrize("name", ["cma", "cma-margin", "nevergrad:DE", "nevergrad:OnePlusOne"])
def test_amended_trials_bring_another_optimizer_to_the_same_place(name):
    """An optimizer with another seed learns from the amended genomes, not from its own."""
    first, calls = create(name, REAL, seed=1), []
    for _ in range(400):
        trial, genome = first.ask()
        first.tell(trial, [-sphere(genome)])
        calls.append(genome)
    other = create(name, REAL, seed=2)
    for genome in calls:
        trial, _ = other.ask()
        other.amend(trial, genome)
        other.tell(trial, [-sphere(genome)])
    going_on = search(other, sphere, 100)[0]
    assert going_on <= 20 * max(1e-7, min(map(sphere, calls)))
    assert going_on < search(create(name, REAL, seed=2), sphere, 100)[0] / 5


@pytest.mark.parametrize("name", ["cma", "cma-margin", "nevergrad:DE", "nevergrad:PSO"])
def test_amending_by_a_negligible_difference_changes_nothing(name):
    def run(shift):
        optimizer, genomes = create(name, REAL, seed=1), []
        for _ in range(120):
            trial, genome = optimizer.ask()
            genomes.append(genome)
            optimizer.amend(trial, tuple(min(2.0, value + shift) for value in genome))
            optimizer.tell(trial, [-sphere(genome)])
        return genomes

    assert run(0.0) == run(1e-9)


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
        (trial, one), (_, other) = chosen.ask(), named.ask()
        assert one == other
        for optimizer in (chosen, named):
            optimizer.tell(trial, [-sum(one)])


def test_a_grid_gets_finer_and_never_repeats_itself():
    genes = [Gene("x", "real", 0.0, 1.0, 0.5), Gene("m", "choice", 0, 2, 0)]
    optimizer = create("grid", genes, seed=0, budget=6)
    points = [optimizer.ask()[1] for _ in range(2 * 3 + 3 + 2 * 3)]
    assert len(set(points)) == len(points)
    assert {x for x, _ in points[:6]} == {0.0, 1.0}
    assert {x for x, _ in points[6:9]} == {0.5}
    assert {x for x, _ in points[9:]} == {0.25, 0.75}


def test_names_are_listed_without_importing_what_they_need():
    code = (
        "import sys; from evomerge.optimize import optimizer_names; assert len(optimizer_names()) "
        "> 10; print(*[m for m in ('nevergrad', 'numpy', 'cma') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert all(line and "\n" not in line for line in optimizer_names().values())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"population": 3}, "optimizer.population is 3; it must be 4 or more"),
        ({"name": "grid", "budget": 63}, "corners alone are 64 candidates, but the budget is 63"),
        ({"genes": []}, "no genes"),
    ],
)
def test_options_that_do_not_suit_are_one_sentence(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        create(**({"name": "cma", "genes": REAL, "seed": 0} | options))
