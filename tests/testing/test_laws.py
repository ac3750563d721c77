"""The checks of `evomerge.testing` pass for the package's own classes, and find broken laws."""

from dataclasses import replace

import numpy as np
import pytest
from optimizer_runs import COUNTS
from spaces import parameters

from evomerge.merging.methods import get_method, method_names
from evomerge.merging.methods.method import Knob, flag, knob, method
from evomerge.optimize import OPTIMIZERS, create
from evomerge.space.protocol import Gene
from evomerge.testing import check_method, check_optimizer, check_space

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("name", ["random", "sobol", "grid"])  # tests/optimize has the others
def test_optimizers_that_learn_nothing_keep_the_laws(name):
    for objectives in COUNTS[name]:
        check_optimizer(
            OPTIMIZERS.get(name),
            trials=60,
            objectives=objectives,
        )


@pytest.mark.parametrize("name", method_names())
def test_every_merge_method_keeps_the_laws(name, capsys):
    check_method(get_method(name))
    assert capsys.readouterr().out.startswith(f"{name} keeps the laws of merge methods")


def space():
    return parameters(["ties", "slerp"], groups=2, smooth=True)


class Flawed:
    """Random search with one flaw."""

    population = 1

    def __init__(self, genes, flaw):
        self.genes, self.flaw, self.last = genes, flaw, None
        self.generator = np.random if flaw == "global" else np.random.RandomState(0)
        if flaw == "unseeded":
            self.generator = np.random.RandomState()

    def ask(self):
        share = 1.5 if self.flaw == "range" else self.generator.uniform()
        genome = tuple(gene.low + share * (gene.high - gene.low) for gene in self.genes)
        if self.flaw != "twice" or self.last is None:
            self.last = genome
        return self.last

    def replay(self, genome):
        return self.ask()

    def tell(self, genome, values, violation=0.0):
        if self.flaw == "fragile" and values is None:
            raise ValueError("no value")


@pytest.mark.parametrize(
    ("flaw", "error", "sentence"),
    [
        ("global", AssertionError, "global generator"),
        ("unseeded", AssertionError, "could not be resumed"),
        ("range", AssertionError, "out of its range"),
        ("twice", AssertionError, "had been tried"),
        ("fragile", ValueError, "no value"),
    ],
)
def test_a_flawed_optimizer_is_caught(flaw, error, sentence):
    genes = [Gene("x", "real", 0.0, 1.0, 0.5), Gene("y", "real", -1.0, 1.0, 0.5)]
    check_optimizer(lambda genes, setting: Flawed(genes, None), genes)
    with pytest.raises(error, match=sentence):
        check_optimizer(lambda genes, setting: Flawed(genes, flaw), genes)


def test_what_is_registered_is_checked_and_a_function_of_a_seed_with_a_warning():
    genes = [Gene(name, "real", 0.0, 1.0, 0.5) for name in "ab"]
    settings = []

    def registered(genes, setting, *, shorter=1.0):
        settings.append(setting)
        return create("cma", genes, setting.seed, sigma=setting.sigma * shorter)

    check_optimizer(registered, genes, 30)
    assert {(setting.seed, setting.objectives) for setting in settings} == {(3, 1)}
    with pytest.warns(DeprecationWarning, match=r"function of \(genes, setting\)"):
        check_optimizer(lambda genes, seed: create("cma", genes, seed), genes, 30)


class FlawedSpace:
    """The parameter space with one flaw."""

    def __init__(self, flaw):
        self.inner, self.flaw, self.decoded = space(), flaw, 0
        first, *rest = self.inner.genes
        changes = {
            "twice": {"name": rest[0].name},
            "narrow": {"low": first.high},
            "start": {"start": first.high + 1},
        }
        self.genes = (replace(first, **changes.get(flaw, {})), *rest)
        if flaw == "empty":
            self.genes = ()
        self.max_depth = self.inner.max_depth - (flaw == "deep")

    def decode(self, genome):
        self.decoded += 1
        recipe = self.inner.decode(genome)
        return replace(recipe, seed=self.decoded) if self.flaw == "changing" else recipe

    def baselines(self):
        return self.inner.baselines() | ({"odd": "a"} if self.flaw == "no recipe" else {})

    def baseline_genomes(self):
        genomes = self.inner.baseline_genomes()
        start = tuple(gene.start for gene in self.inner.genes)
        if self.flaw == "outside":
            genomes["a"] = [(self.genes[0].high + 1, *start[1:])]
        return genomes | ({"nobody": [start]} if self.flaw == "stray" else {})


@pytest.mark.parametrize(
    ("flaw", "sentence"),
    [
        ("empty", "no genes"),
        ("twice", "same name"),
        ("narrow", "empty range"),
        ("start", "starts out of its range"),
        ("changing", "decoded to two different recipes"),
        ("no recipe", "odd is not a Recipe"),
        ("deep", "4 blocks, but max_depth is 3"),
        ("stray", "baseline_genomes.. has nobody"),
        ("outside", "out of its range"),
    ],
)
def test_a_flawed_space_is_caught(flaw, sentence):
    check_space(FlawedSpace(None))
    with pytest.raises(AssertionError, match=sentence):
        check_space(FlawedSpace(flaw))


def flawed_method(flaw):
    @method("", parents=(1, None), preparation=lambda operands: [], torch=True)
    def flawed(
        operands,
        out,
        *,
        weight=knob(1.0, 0, 1, per="source", search=(0.1, 0.9)),
        power=knob(1, 1, 10**6, kind="integer"),
        switch=flag(False),
    ):
        operands.prepared.append(weight)
        tensors = [tensor.float() for tensor in operands.tensors]
        if flaw == "dtype":
            tensors = operands.tensors
        if flaw == "bfloat16":
            tensors = [tensor.bfloat16() for tensor in tensors]
        total = sum(w * tensor for w, tensor in zip(weight, tensors, strict=True))
        if flaw == "zero":
            total = total / sum(weight)
        if flaw == "switch" and switch:
            operands.tensors[0].zero_()
        if flaw == "power" and power > 1:
            operands.tensors[0].zero_()
        if flaw == "reuse":
            total = total + operands.reuse
        if flaw == "memory":
            total = total + len(operands.prepared)
        if flaw == "infinite":
            total = total / 0
        if flaw == "writes":
            operands.tensors[0].zero_()
        if flaw == "rounds":
            total = total.to(out.dtype) + 1
        if flaw == "shape":
            total = total.new_zeros(2, *total.shape)
        if flaw != "nothing":
            out.copy_(total)

    return flawed


@pytest.mark.parametrize(
    ("flaw", "sentence"),
    [
        ("reuse", "reuse=True and reuse=False give different bits"),
        ("memory", "different bits|depends on"),
        ("infinite", "not finite"),
        ("writes", "writes into"),
        ("switch", "writes into the tensors it merges, with the knobs .*'switch': 1.0"),
        ("power", "writes into"),
        ("dtype", "bfloat16 sources give another result than float32 ones"),
        ("bfloat16", "each element of the result is a torch.bfloat16 number"),
        ("zero", "'weight': 0.0.* is NaN"),
        ("rounds", "rounded once"),
        ("shape", "flawed raises RuntimeError .* 1 sources of shape .* must merge .* into `out`"),
        ("nothing", "is NaN, as `out` is at first; write it there"),
    ],
)
def test_a_flawed_method_is_caught(flaw, sentence):
    check_method(flawed_method(None))
    with pytest.raises(AssertionError, match=sentence):
        check_method(flawed_method(flaw))
    with pytest.raises(AssertionError, match="what `@method"):
        check_method(flawed_method(flaw).function)


def test_a_knob_that_contradicts_itself_is_caught():
    for search, start in (((0.0, 2.0), None), ((0.5, 0.5), None), ((0.0, 0.5), 0.7)):
        knob = Knob("weight", 1.0, 0, 1, "source", search=search, start=start)
        with pytest.raises(AssertionError, match="Knob weight"):
            check_method(replace(flawed_method(None), knobs=(knob,)))
