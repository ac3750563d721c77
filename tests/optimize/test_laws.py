"""The laws of the protocol, for every optimizer that ships."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.optimize import create, optimizer_names
from evomerge.space.protocol import Gene

REAL = [Gene(f"real{i}", "real", -1.0, 3.0, 0.5) for i in range(3)]
MIXED = [
    Gene("weight", "real", 0.0, 2.0, 1.0),
    Gene("narrow", "real", 0.0, 1.0, 0.0, sigma=0.01),
    Gene("count", "integer", 2, 9, 5),
    Gene("method", "choice", 0, 2, 0, choices=("a", "b", "c")),
    Gene("flag", "binary", 0, 1, 0.5),
]
LONE = [Gene("lone", "real", 0.0, 1.0, 1.0)]
SPACES = {"real": REAL, "mixed": MIXED, "lone": LONE}
NAMES = list(optimizer_names())

values = st.one_of(
    st.none(),
    st.sampled_from([0.0, 0.5, math.nan, math.inf, -math.inf, -1e300, 1e300]),
    st.floats(-10, 10).map(lambda x: round(x, 1)),
)
calls = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.just(0)),
        st.tuples(st.just("suggest"), st.integers(0, 99)),
        st.tuples(st.just("tell"), st.tuples(st.integers(0, 99), values)),
    ),
    min_size=20,
    max_size=120,
)


def corner(genes, number):
    bits = np.random.RandomState(number).randint(2, size=len(genes))
    ends = zip(bits, genes, strict=True)
    return tuple(float(gene.high if bit else gene.low) for bit, gene in ends)


def global_generator():
    _, key, position, has_gauss, cached = np.random.get_state()
    return key.tolist(), position, has_gauss, cached


def play(optimizer, genes, script):
    """Put a script of calls into an optimizer; return all genomes it proposed."""
    genomes, open_trials, suggested = [], [], []
    for call, argument in script:
        if call == "suggest":
            genome = corner(genes, argument)
            optimizer.enqueue(genome)
            suggested.append(genome)
        elif call == "ask" or not open_trials:
            trial, genome = optimizer.ask()
            assert trial == len(genomes)
            if suggested:
                assert genome == suggested.pop(0)
            genomes.append(genome)
            open_trials.append(trial)
        else:
            which, value = argument
            trial = open_trials.pop(which % len(open_trials))
            optimizer.tell(trial, None if value is None else [value])
    return genomes


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None)
@given(script=calls, space=st.sampled_from(sorted(SPACES)), seed=st.integers(0, 2**40))
def test_the_same_calls_give_the_same_genomes_bit_for_bit(name, script, space, seed):
    genes = SPACES[space]
    first = play(create(name, genes, seed), genes, script)
    np.random.seed(1)
    assert play(create(name, genes, seed), genes, script) == first
    for genome in first:
        for gene, value in zip(genes, genome, strict=True):
            assert gene.low <= value <= gene.high
            assert gene.kind == "real" or value == int(value)


@pytest.mark.parametrize("name", NAMES)
def test_a_long_asynchronous_search_is_replayed_bit_for_bit(name):
    """Three open trials, told in a shuffled order, with failures, lost trials, suggestions."""

    def run():
        optimizer, order = create(name, MIXED, seed=3), np.random.RandomState(5)
        genomes, waiting = [], []
        for number in range(400):
            if number in (0, 1, 150):
                optimizer.enqueue(corner(MIXED, number))
            waiting.append(optimizer.ask())
            genomes.append(waiting[-1][1])
            if len(waiting) > 3:
                trial, genome = waiting.pop(order.randint(len(waiting)))
                if order.rand() > 0.05:
                    failed = order.rand() < 0.2
                    optimizer.tell(trial, None if failed else [-abs(sum(genome) - 4)])
        return genomes

    assert run() == run()


@pytest.mark.parametrize("name", NAMES)
def test_the_global_generator_is_neither_read_nor_moved(name):
    np.random.seed(0)
    before = global_generator()
    optimizer = create(name, MIXED, seed=0)
    for _ in range(60):
        trial, genome = optimizer.ask()
        optimizer.tell(trial, [-sum(genome)])
    assert global_generator() == before


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("grid", "sobol")])
def test_another_seed_gives_other_genomes(name):
    def run(seed):
        optimizer = create(name, REAL, seed)
        genomes = []
        for _ in range(10):
            trial, genome = optimizer.ask()
            genomes.append(genome)
            optimizer.tell(trial, [-sum(genome)])
        return genomes

    assert run(0) != run(1)


@pytest.mark.parametrize("name", NAMES)
def test_when_everything_fails_the_search_goes_on_inside_the_ranges(name):
    optimizer = create(name, MIXED, seed=0)
    for _ in range(200):
        trial, genome = optimizer.ask()
        assert all(gene.low <= x <= gene.high for gene, x in zip(MIXED, genome, strict=True))
        optimizer.tell(trial, None)


@pytest.mark.parametrize("name", NAMES)
def test_a_failure_counts_as_the_worst_value_so_far(name):
    """Telling None and telling the worst value are the same, early failures wait for a value."""

    def run(fail):
        optimizer, worst, genomes = create(name, REAL, seed=1), math.inf, []
        early = [optimizer.ask() for _ in range(3)]
        genomes += [genome for _, genome in early]
        if fail:
            optimizer.tell(early[0][0], None)
            optimizer.tell(early[1][0], [math.nan])
            optimizer.tell(early[2][0], [-7.0])
        else:
            for trial, _ in (early[2], early[0], early[1]):
                optimizer.tell(trial, [-7.0])
        worst = -7.0
        for number in range(120):
            trial, genome = optimizer.ask()
            genomes.append(genome)
            if number % 5 == 2:
                optimizer.tell(trial, None if fail else [worst])
            else:
                worst = min(worst, -sum(x * x for x in genome))
                optimizer.tell(trial, [-sum(x * x for x in genome)])
        return genomes

    assert run(fail=True) == run(fail=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_trial_is_told_once_and_only_after_it_was_asked(name):
    optimizer = create(name, REAL, seed=0)
    trial, _ = optimizer.ask()
    optimizer.tell(trial, [0.5])
    for wrong in (trial, trial + 1):
        with pytest.raises(ValueError, match="not open"):
            optimizer.tell(wrong, [0.5])
        with pytest.raises(ValueError, match="not open"):
            optimizer.amend(wrong, (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="one objective"):
        optimizer.tell(optimizer.ask()[0], [0.5, 0.5])


@pytest.mark.parametrize("genome", [(0.0, 0.0), (0.0, 0.0, 3.5), (0.0, 0.0, math.nan)])
def test_a_genome_outside_of_the_space_is_no_suggestion(genome):
    optimizer = create("cma", REAL, seed=0)
    with pytest.raises(ValueError, match=r"(?i)gene"):
        optimizer.enqueue(genome)
