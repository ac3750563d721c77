"""Optimizers search as well as the algorithms that they name; those that do not are found."""

import numpy as np
import pytest
from optimizer_runs import COUNTS
from plain_searches import REFERENCES

from evomerge.optimize import create
from evomerge.testing import CONDITIONS, PROBLEMS, check_choices, check_search


@pytest.mark.long
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", REFERENCES)
def test_each_problem_in_each_condition_with_ten_seeds(name, problem, condition):
    """`make test` has a short form of it, in `test_laws.py`."""
    objectives = PROBLEMS[problem].objectives
    if objectives not in COUNTS[name]:
        pytest.skip("another number of objectives")
    trials = 100 if name == "tpe" else 400
    check_search(
        lambda genes, seed: create(name, genes, seed, objectives=objectives),
        REFERENCES[name],
        objectives,
        [problem],
        [condition],
        trials,
        seeds=10,
    )


class Flawed:
    """CMA-ES with one flaw."""

    def __init__(self, genes, seed, flaw):
        self.inner, self.flaw, self.genomes, self.last = create("cma", genes, seed), flaw, {}, {}
        self.population, self.enqueue = self.inner.population, self.inner.enqueue
        self.told = set()

    def ask(self):
        trial, genome = self.inner.ask()
        if self.flaw == "first twice" and trial == self.population + 20:
            genome = self.genomes[20]
        self.genomes[trial] = genome
        return trial, genome

    def tell(self, trial, values, violation=0.0):
        if self.flaw == "shifted":  # each trial gets the values of the one before
            values, self.last = self.last or None, values
        if self.flaw == "stops" and self.genomes[trial] in self.told:
            self.flaw = "stopped"
        self.told.add(self.genomes[trial])
        if self.flaw == "stopped":
            values = [0.0]
        self.inner.tell(trial, values, violation)


def check_flawed(flaw):
    check_search(lambda genes, seed: Flawed(genes, seed, flaw), REFERENCES["cma"])


def test_without_a_flaw_it_is_as_good_as_its_reference():
    check_flawed(None)


@pytest.mark.parametrize(
    ("flaw", "sentence"),
    [
        ("shifted", "The reference searches better: losses .* on sphere"),
        ("stops", "The reference searches better: .* with baselines told twice"),
        ("first twice", "A genome was proposed again"),
    ],
)
def test_another_algorithm_under_its_name_is_caught(flaw, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_flawed(flaw)


def test_without_a_reference_random_search_must_be_beaten():
    check_search(lambda genes, seed: create("cma", genes, seed))
    with pytest.raises(AssertionError, match="not better than random search on sphere"):
        check_search(lambda genes, seed: create("random", genes, seed))


def test_tpe_searches_a_sphere_as_in_its_own_package():
    conditions = ["baselines told twice", "failures"]
    check_search(
        lambda genes, seed: create("tpe", genes, seed),
        REFERENCES["tpe"],
        problems=["sphere"],
        conditions=conditions,
        trials=60,
    )


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
