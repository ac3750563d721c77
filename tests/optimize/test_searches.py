"""Optimizers search as well as the algorithms that they name; those that do not are found."""

import math

import numpy as np
import pytest
from known_problems import PROBLEMS
from learning_laws import check_learning
from optimizer_laws import check_laws
from optimizer_runs import COUNTS, NAMES
from plain_searches import NEVERGRAD, REFERENCES, of_nevergrad
from search_laws import CONDITIONS, FAST, WORSE, check_choices, check_search

from evomerge.optimize import create
from evomerge.testing import GENES

pytestmark = pytest.mark.thorough


ONE_PARENT = ("discrete-lengler", "nevergrad:OnePlusOne")
"""They climb from one point, so open trials cost them more than half of the trials."""


def reference_of(name, condition):
    """The reference; for a (1+1) with as many open trials, and so with as many trials."""
    if name not in ONE_PARENT or condition != "8 open trials":
        return REFERENCES[name]
    share = CONDITIONS[condition].share
    plain = of_nevergrad(NEVERGRAD[name], CONDITIONS[condition].width)
    return lambda problem, seed, trials: plain(problem, seed, round(trials / share))


UNTAUGHT = ("random", "sobol", "grid")
"""Searches that learn nothing."""

SEARCHED = ("cma-margin", "discrete-lengler", "nsga2", "nsga3")
"""Optimizers that search functions in the short form. Those that take longer, or need more trials
to show anything, are compared with their references in the long form only."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNTAUGHT])
def test_every_optimizer_keeps_the_laws(name):
    for objectives in COUNTS[name]:
        check_laws(
            lambda genes, seed: create(name, genes, seed, objectives=objectives),  # noqa: B023
            trials=60,
            objectives=objectives,
            reference=REFERENCES.get(name),
            seeds=10 if name in SEARCHED else 0,
        )


@pytest.mark.long
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", REFERENCES)
def test_each_problem_in_each_condition_with_ten_seeds(name, problem, condition):
    """The short form of it is above.

    Of some 370 cells one or two look worse by chance. Those are tried again with 40 other seeds, so
    an optimizer as good as its reference fails the whole test with a probability under 1 %.
    """
    objectives = PROBLEMS[problem].objectives
    if objectives not in COUNTS[name]:
        pytest.skip("another number of objectives")

    def check(seeds, first_seed):
        check_search(
            lambda genes, seed: create(name, genes, seed, objectives=objectives),
            reference_of(name, condition),
            objectives,
            [problem],
            [condition],
            trials=400,
            seeds=seeds,
            first_seed=first_seed,
        )

    try:
        check(10, 0)
    except AssertionError as error:
        if WORSE not in str(error):
            raise
        check(40, 2000)


@pytest.mark.parametrize("condition", FAST)
@pytest.mark.parametrize("name", ["cma", "diagonal-cma"])
def test_cma_searches_as_its_reference_from_the_first_trials_on(name, condition):
    check_search(
        lambda genes, seed: create(name, genes, seed),
        REFERENCES[name],
        conditions=[condition],
        trials=60,
    )


class Flawed:
    """An optimizer of the package with one flaw."""

    def __init__(self, genes, seed, flaw, name="cma", objectives=1):
        same = flaw == "always the same seed"
        self.inner = create(name, genes, 0 if same else seed, objectives=objectives)
        self.flaw, self.count, self.genomes, self.told = flaw, objectives, {}, set()
        self.population, self.kept, self.worst = self.inner.population, [], [0.0] * objectives
        self.queue, self.noise, self.twice = [], np.random.RandomState(0), None
        self.amend = self.inner.amend

    def enqueue(self, genome):
        if self.flaw == "baselines in a generation":
            self.queue.append(genome)
        else:
            self.inner.enqueue(genome)

    def ask(self):
        if self.flaw == "each twice" and self.twice is not None:
            self.inner.enqueue(self.twice)
            self.twice = None
            return self.inner.ask()
        trial, genome = self.inner.ask()
        self.twice = genome
        if self.queue:
            genome = self.queue.pop(0)
            self.inner.amend(trial, genome)
        if self.flaw == "first twice" and trial == self.population + 20:
            genome = self.genomes[20]
        self.genomes[trial] = genome
        return trial, genome

    def tell(self, trial, values, violation=0.0):
        failed = values is None or not all(map(math.isfinite, values))
        if self.flaw == "late":  # by a generation
            self.kept.append((trial, values, violation))
            if len(self.kept) <= self.population:
                return
            trial, values, violation = self.kept.pop(0)
        if self.flaw == "half random" and trial % 2 and not failed:
            values = -2 * self.noise.rand(self.count)
        if self.flaw == "failures best" and failed:
            values = [0.0] * self.count
        if self.flaw == "failures as the worst so far":
            self.worst = self.worst if failed else np.minimum(self.worst, values)
            values = self.worst if failed else values
        if self.flaw == "failures as violations" and failed:
            values, violation = [0.0] * self.count, 0.5
        if self.flaw == "stops" and self.genomes[trial] in self.told:
            self.flaw = "stopped"  # as soon as a genome is told twice
        self.told.add(self.genomes.get(trial))
        if self.flaw == "stopped":
            values = [0.0]
        if self.flaw != "deaf":
            self.inner.tell(trial, values, 0.0 if self.flaw == "no constraints" else violation)


UNLEARNED, LAST = "it has not learned this outcome", "failures must rank below violations"
BITS = PROBLEMS["one-max"].genes


@pytest.mark.parametrize(
    ("name", "objectives", "genes"),
    [("cma", 1, GENES), ("cma", 1, BITS), ("discrete-lengler", 1, GENES), ("nsga3", 2, GENES)],
    ids=["cma", "cma of bits", "discrete-lengler", "nsga3"],
)
@pytest.mark.parametrize(
    ("flaw", "sentence"),
    [
        ("late", UNLEARNED),
        ("deaf", UNLEARNED),
        ("half random", UNLEARNED),
        ("failures best", LAST),
        ("failures as the worst so far", LAST),
        ("no constraints", "The values of a trial that violates|" + LAST),
        ("always the same seed", "Two seeds give the same proposals"),
        ("each twice", "repeats while all scored the same|proposed again|" + UNLEARNED),
    ],
)
def test_what_learns_wrongly_is_caught_without_a_reference(flaw, sentence, name, objectives, genes):
    def make(genes, seed):
        return Flawed(genes, seed, flaw, name, objectives)

    with pytest.raises(AssertionError, match=sentence):
        check_learning(make, genes, objectives)


def test_failures_that_are_taken_for_violations_are_caught():
    with pytest.raises(AssertionError, match=LAST):
        check_learning(lambda genes, seed: Flawed(genes, seed, "failures as violations"), GENES)


@pytest.mark.parametrize(
    ("flaw", "condition", "sentence"),
    [
        ("half random", "a generation of open trials", "The reference searches better"),
        ("stops", "baselines told twice", "The reference searches better|it has stalled"),
        ("first twice", "a generation of open trials", "A genome was proposed again"),
    ],
)
def test_another_algorithm_under_its_name_is_caught(flaw, condition, sentence):
    """CMA-ES without a flaw passes with as many trials; see the long form."""
    with pytest.raises(AssertionError, match=sentence):
        check_search(
            lambda genes, seed: Flawed(genes, seed, flaw),
            REFERENCES["cma"],
            conditions=[condition],
            trials=60 if flaw == "half random" else 150,
        )


def test_without_a_reference_random_search_must_be_beaten():
    few = ["baselines told twice"]
    check_search(lambda genes, seed: create("cma", genes, seed), trials=60, conditions=few)
    with pytest.raises(AssertionError, match="not better than random search, with"):
        check_search(lambda genes, seed: create("random", genes, seed), conditions=few)


@pytest.mark.parametrize("name", ["random", "sobol"])
def test_choices_are_even_at_first(name):
    check_choices(lambda genes, seed: create(name, genes, seed))


def test_an_uneven_choice_is_caught():
    class Biased:
        """Random search that leaves out the last value of every second search."""

        def __init__(self, genes, seed):
            self.random, self.most = np.random.RandomState(seed), 4 - seed % 2

        def ask(self):
            return 0, (0.5, float(self.random.randint(self.most)), 0.5)

        def tell(self, trial, values):
            pass

    with pytest.raises(AssertionError, match="all should be equally likely"):
        check_choices(Biased)
