"""Optimizers of nevergrad are nevergrad's, keep climbing after repeats, or are refused."""

import random

import nevergrad
import numpy as np
import pytest
from optimize.optimizer_laws import check_laws
from optimizer_runs import OF_NEVERGRAD

from evomerge.errors import ConfigError
from evomerge.optimize import create
from evomerge.space.protocol import Gene

pytestmark = pytest.mark.thorough

REAL = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(6)]
BITS = [Gene(f"b{i}", "binary", 0, 1, 0) for i in range(20)]
CLIMBING = [("discrete-lengler", BITS), ("nevergrad:OnePlusOne", REAL), ("two-points-de", REAL)]


def score(genome):
    return 1 - sum(abs(1 - value) for value in genome) / len(genome)


@pytest.mark.parametrize(("name", "genes"), CLIMBING)
@pytest.mark.parametrize("told", ["start", "three points, twice"])
def test_a_point_that_is_told_twice_does_not_end_the_climb(name, genes, told):
    """nevergrad would rank a point that was told twice 70 better than one that was told once."""
    start = tuple(float(gene.start) for gene in genes)
    low, high = ((value,) * len(genes) for value in (0.0, 1.0))
    mostly = (*high[: len(genes) // 2 + 1], *low[len(genes) // 2 + 1 :])
    baselines = [start] if told == "start" else 2 * [start, low, mostly]

    def reached(seed):
        optimizer, best = create(name, genes, seed), 0.0
        for genome in baselines:
            optimizer.tell(genome, [score(genome)])
        for _ in range(300):
            genome = optimizer.ask()
            optimizer.tell(genome, [score(genome)])
            best = max(best, score(genome))
        return best

    assert sorted(reached(seed) for seed in range(3))[1] > 0.85


@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize(
    "name", [*OF_NEVERGRAD, "two-points-de", "discrete-lengler", "nevergrad:RecMixES"]
)
def test_it_proposes_what_nevergrad_proposes(name, width):
    """In units of steps: the start is 0, the step 1, and the bounds are -3 and 3."""
    short = {"two-points-de": "TwoPointsDE", "discrete-lengler": "DiscreteLenglerOnePlusOne"}
    parameter = nevergrad.p.Array(shape=(6,))
    parameter.random_state = np.random.RandomState(7)
    parameter.set_bounds([-3.0] * 6, [3.0] * 6, method="clipping", full_range_sampling=False)
    wanted = short.get(name, name.removeprefix("nevergrad:"))
    plain = nevergrad.optimizers.registry[wanted](parameter, budget=None, num_workers=1)
    optimizer, waiting, known = create(name, REAL, 7), [], {}
    for _ in range(200):
        candidate, genome = plain.ask(), optimizer.ask()
        while candidate.value.tobytes() in known:  # particles meet in corners
            plain.tell(candidate, known[candidate.value.tobytes()])
            candidate = plain.ask()
        assert np.abs(0.5 + candidate.value / 6 - genome).max() < 1e-12
        waiting.append((candidate, genome, float(((np.array(genome) - 0.8) ** 2).sum())))
        if len(waiting) == width:
            candidate, genome, loss = waiting.pop(0)
            plain.tell(candidate, loss)
            known[candidate.value.tobytes()] = loss
            optimizer.tell(genome, [-loss])


MIXING = ("AnisoEMNATBPSA", "NaiveAnisoEMNATBPSA")


@pytest.mark.parametrize("name", MIXING)
def test_an_optimizer_that_is_refused_for_its_error_has_it_in_nevergrad(name):
    """Where this fails, nevergrad is repaired: then it need not be refused."""
    with pytest.raises(ValueError, match="inhomogeneous shape"):
        for seed in range(12):
            space, waiting = nevergrad.p.Array(shape=(6,)), []
            space.random_state = np.random.RandomState(seed)
            plain = nevergrad.optimizers.registry[name](space, budget=None, num_workers=1)
            for _ in range(150):
                waiting.append(plain.ask())
                if len(waiting) == 12:
                    candidate = waiting.pop(0)
                    plain.tell(candidate, float(((candidate.value - 1) ** 2).sum()))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "has no optimizer ''"),
        ("NAME", "has no optimizer 'NAME'"),
        *(
            (name, f"'nevergrad:{name}', which combines algorithms by the budget, .*; choose anot")
            for name in ("NGOpt", "Portfolio", "Cobyla", "LHSSearch", "DiscreteBSOOnePlusOne")
        ),
        *(
            (name, "draws from global random numbers, repeats points because of noise, or ends")
            for name in ("LognormalDiscreteOnePlusOne", "LhsDE", "NoisyOnePlusOne", *MIXING)
        ),
    ],
)
def test_what_breaks_a_law_is_refused_in_one_sentence(name, sentence):
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    with pytest.raises(ConfigError, match=sentence):
        create(f"nevergrad:{name}", REAL, 0)
    assert (random.random(), np.random.rand()) == expected


OWN_SAMPLES = [
    *("nevergrad:EDA", "nevergrad:NaiveIsoEMNA", "nevergrad:TBPSA", "nevergrad:NaiveTBPSA"),
    *("nevergrad:CMAstd", "nevergrad:DiagonalCMA", "nevergrad:cGA", "nevergrad:SPSA"),
]


@pytest.mark.parametrize("name", OWN_SAMPLES)
def test_what_learns_from_its_own_samples_is_not_told_of_baselines(name):
    def proposals(baselines):
        optimizer, found = create(name, REAL, 3), []
        for value in baselines:
            optimizer.tell((value,) * len(REAL), [value])
        for _ in range(150):
            found.append(optimizer.ask())
            optimizer.tell(found[-1], [score(found[-1])])
        return found

    assert proposals([0.5, 0.1, 0.9]) == proposals([])


@pytest.mark.parametrize("name", ["two-points-de", "nevergrad:DE"])
def test_points_of_others_take_a_fifth_of_the_places_in_the_population(name):
    """They took all of them, failures too. A good one is bred from at once."""
    size = 30

    def proposals(others):
        optimizer, found = create(name, REAL, 3), []
        for number, genome in enumerate(others):
            optimizer.tell(genome, None if number else [score(genome)])
        for _ in range(2 * size):
            found.append(optimizer.ask())
            optimizer.tell(found[-1], [score(found[-1])])
        return found

    random = np.random.RandomState(0)
    others = [(0.97,) * len(REAL), *map(tuple, random.uniform(0.0, 1.0, (size, len(REAL))))]
    own = size - size // 5
    found, alone = proposals(others), proposals([])
    assert found[:own] == alone[:own]
    assert np.mean(list(map(score, found[own:]))) > np.mean(list(map(score, alone[own:])))


SIZES = {"DE": 30, "PSO": 40, "OnePlusOne": 1, "TBPSA": 24, "NaiveIsoEMNA": 64, "MixES": 20}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_a_generation_is_as_large_as_that_of_nevergrad(name, size):
    assert create(f"nevergrad:{name}", REAL, 0).population == size


UNLEARNED = "It learns from generations of its own, which are longer than what it says."
FAULTS = {
    **dict.fromkeys(("ES", "NonNSGAIIES", "RecES"), UNLEARNED),
    "cGA": "It learns from pairs, and says that a generation has another number of trials.",
    "SPSA": "It draws the same for each seed.",
}
"""What an optimizer of nevergrad does that a law forbids."""


def marks(name):
    fails = pytest.mark.xfail(strict=True, raises=AssertionError, reason=FAULTS.get(name, ""))
    return [fails] if name in FAULTS else []


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [pytest.param(it, marks=marks(it)) for it in sorted(nevergrad.optimizers.registry)]
)
def test_every_optimizer_of_nevergrad_keeps_the_laws_or_is_refused(name):
    def make(genes, seed):
        return create(f"nevergrad:{name}", genes, seed)

    try:
        make(REAL, 0)
    except ConfigError:
        return
    check_laws(make)
