"""Checks of the laws for an optimizer, a space or a merge method of your own.

Call them in the tests of your package. Each raises an `AssertionError` whose message says which
law is broken::

    from evomerge.testing import check_method

    def test_my_method():
        check_method(MY_METHOD)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from evomerge.errors import CandidateError
from evomerge.merge.methods.method import Knob, Method
from evomerge.optimize.protocol import Optimizer
from evomerge.recipe import Recipe
from evomerge.space.protocol import Gene, Genome, Space

if TYPE_CHECKING:
    from torch import Tensor

GENES = (
    Gene("weight", "real", 0.0, 2.0, 1.0),
    Gene("narrow", "real", -1e-3, 1e-3, 0.0, sigma=1e-5),
    Gene("count", "integer", 2, 9, 5),
    Gene("method", "choice", 0, 2, 0, choices=("a", "b", "c")),
    Gene("flag", "binary", 0, 1, 0.5),
)
"""Genes of all kinds; `check_optimizer` uses them if it is given no others."""


def require(condition: object, message: str) -> None:
    """Raise an `AssertionError` if a condition is false, also with `python -O`."""
    if not condition:
        raise AssertionError(message)


def check_optimizer(
    create: Callable[[Sequence[Gene], int], Optimizer],
    genes: Sequence[Gene] = GENES,
    trials: int = 200,
) -> None:
    """Check the laws of `evomerge.optimize.protocol.Optimizer`.

    Args:
        create: a function of genes and a seed that returns a new optimizer.
        genes: the genes that it searches.
        trials: number of trials in each search.

    Raises:
        AssertionError: a law is broken.
    """
    genes = tuple(genes)
    require(create(genes, 3).population >= 1, "The population is below 1.")
    kept = np.random.get_state()
    for width, failures in ((1, 0.0), (4, 0.0), (4, 0.2), (4, 1.0), (50, 0.2)):
        np.random.seed(1)
        first = _play(create(genes, 3), genes, trials, width, failures)
        drawn = np.random.uniform()
        np.random.seed(1)
        require(drawn == np.random.uniform(), "The optimizer draws from numpy's global generator.")
        again = _play(create(genes, 3), genes, trials, width, failures)
        require(
            first == again, "The same calls gave different genomes, so a run could not be resumed."
        )
    np.random.set_state(kept)


def _play(
    optimizer: Optimizer, genes: Sequence[Gene], trials: int, width: int, failures: float
) -> list[Genome]:
    """Search, and return all genomes; some are enqueued, some amended.

    Args:
        trials: number of trials.
        width: maximum number of open trials; they are told in random order, and 5 % are never told.
        failures: share of the trials that fail.
    """
    order = np.random.RandomState(trials)
    genomes: list[Genome] = []
    waiting: list[tuple[int, Genome]] = []
    for number in range(trials):
        corner = tuple(gene.high if order.rand() < 0.5 else gene.low for gene in genes)
        if number % 50 == 0:
            optimizer.enqueue(corner)
        trial, genome = optimizer.ask()
        require(
            trial == number,
            f"Trial {number} was numbered {trial}; trials are numbered 0, 1, 2, ...",
        )
        require(number % 50 or genome == corner, "An enqueued genome was not proposed next.")
        _check_range(genes, genome)
        genomes.append(genome)
        waiting.append((trial, genome))
        if number % 50 == 25:
            optimizer.amend(trial, genomes[0])
        if len(waiting) >= width:
            trial, genome = waiting.pop(order.randint(len(waiting)))
            if order.rand() < 0.05:
                continue
            values = [-sum((x - gene.low) ** 2 for gene, x in zip(genes, genome, strict=True))]
            failed = order.rand() < failures
            optimizer.tell(trial, None if failed else values)
    return genomes


def _check_range(genes: Sequence[Gene], genome: Genome) -> None:
    for gene, value in zip(genes, genome, strict=True):
        require(gene.low <= value <= gene.high, f"Gene {gene.name} is {value}, out of its range.")
        require(
            gene.kind == "real" or value == int(value),
            f"Gene {gene.name} is {value}, which is not a whole number.",
        )


def check_space(space: Space, samples: int = 100, seed: int = 0) -> None:
    """Check the laws of `evomerge.space.protocol.Space`.

    Raises:
        AssertionError: a law is broken.
    """
    genes = tuple(space.genes)
    require(genes, "The space has no genes.")
    names = [gene.name for gene in genes]
    require(len(set(names)) == len(names), "Two genes have the same name.")
    for gene in genes:
        require(gene.low < gene.high, f"Gene {gene.name} has an empty range.")
        require(gene.low <= gene.start <= gene.high, f"Gene {gene.name} starts out of its range.")
        require(
            gene.kind != "choice" or len(gene.choices) == gene.high + 1,
            f"Gene {gene.name} has {len(gene.choices)} choices, but values up to {gene.high:g}.",
        )
    generator = np.random.RandomState(seed)
    for number in range(samples):
        genome = _genome(genes, generator, number)
        recipe = space.decode(genome)
        require(space.decode(genome) == recipe, "One genome was decoded to two different recipes.")
        require(
            Recipe.from_dict(recipe.to_dict()) == recipe,
            "Recipe.from_dict(recipe.to_dict()) gives another recipe.",
        )
        _check_depth(recipe, space)
    baselines = space.baselines()
    for label, recipe in baselines.items():
        require(isinstance(recipe, Recipe), f"Baseline {label} is not a Recipe.")
        _check_depth(recipe, space)
    for label, genome in space.baseline_genomes().items():
        require(label in baselines, f"baseline_genomes() has {label}, but baselines() has not.")
        _check_range(genes, genome)


def _check_depth(recipe: Recipe, space: Space) -> None:
    depth = max(map(len, recipe.layers.values()))
    require(
        depth <= space.max_depth,
        f"A recipe has {depth} blocks, but max_depth is {space.max_depth}.",
    )


def _genome(genes: Sequence[Gene], generator: np.random.RandomState, number: int) -> Genome:
    """Return the lowest values for number 0, the highest for number 1, else random values."""
    genome = []
    for gene in genes:
        share = (0.0, 1.0)[number] if number < 2 else float(generator.uniform())
        value = gene.low + share * (gene.high - gene.low)
        value = value if gene.kind == "real" else round(value)
        genome.append(min(gene.high, max(gene.low, value)))
    return tuple(genome)


def check_method(method: Method, samples: int = 20, seed: int = 0) -> None:
    """Check the laws of a merge method (`evomerge.merge.methods.method`) on small random tensors.

    Raises:
        AssertionError: a law is broken.
    """
    import torch

    for knob in method.knobs:
        _check_knob(knob)
    generator = np.random.RandomState(seed)
    torch_generator = torch.Generator().manual_seed(seed)
    fewest, most = method.parents
    for number in range(samples):
        count = int(generator.randint(fewest, (most or fewest + 2) + 1))
        shape = ((), (7,), (5, 6), (2, 3, 4))[number % 4]
        dtype = (torch.float32, torch.bfloat16)[number // 4 % 2]
        tensors = [
            torch.randn(shape, generator=torch_generator).to(dtype) for _ in range(count + 1)
        ]
        base = None if method.base == "none" else tensors[-1]
        sources = [_knobs(method, "source", generator) for _ in range(count)]
        _check_tensor(method, tensors[:count], base, sources, _knobs(method, "merge", generator))


def _check_tensor(
    method: Method,
    tensors: list[Tensor],
    base: Tensor | None,
    sources: list[dict[str, float]],
    knobs: dict[str, float],
) -> None:
    import torch

    from evomerge.merge.kernels.noise import Noise

    noise = [Noise(0, f"parent{i}", "weight") for i in range(len(tensors))]
    copies = [tensor.clone() for tensor in (*tensors, *([] if base is None else [base]))]

    def run(dtype: torch.dtype, *, reuse: bool, before: Sequence[float] = ()) -> Tensor | None:
        merge = method.prepare(tensors, base, noise, reuse=reuse)
        out = torch.full(tensors[0].shape, math.nan, dtype=dtype)
        try:
            for share in before:
                merge(_between(method, "source", sources, share), knobs, out.clone())
            merge(sources, knobs, out)
        except CandidateError:
            return None
        return out

    once = run(torch.float32, reuse=False)
    for copy, tensor in zip(copies, (*tensors, *([] if base is None else [base])), strict=True):
        require(torch.equal(copy, tensor), f"{method.name} writes into the tensors it merges.")
    results = {
        "reuse=True and reuse=False give different bits": run(torch.float32, reuse=True),
        "the result depends on earlier calls of the merge": run(
            torch.float32, reuse=True, before=(0.0, 1.0)
        ),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    results["the result depends on the number of threads"] = run(torch.float32, reuse=False)
    torch.set_num_threads(threads)
    for sentence, result in results.items():
        if once is None or result is None:
            continue
        require(torch.equal(once, result), f"{method.name}: {sentence}.")
    if once is not None:
        require(
            torch.isfinite(once).all(),
            f"{method.name}: the result for the knobs {sources} {knobs} is not finite; such knobs "
            "must raise CandidateError.",
        )
        rounded = run(torch.bfloat16, reuse=False)
        require(
            rounded is None or torch.equal(rounded, once.to(torch.bfloat16)),
            f"{method.name}: a bfloat16 result is not the float32 result rounded once.",
        )


def _check_knob(knob: Knob) -> None:
    inside = [knob.default, *(knob.search or ())]
    for value in inside:
        require(
            value is None or knob.low <= value <= knob.high,
            f"Knob {knob.name}: {value} is outside of {knob.low} to {knob.high}.",
        )
    if knob.search is not None:
        low, high = knob.search
        require(low < high, f"Knob {knob.name}: the search range {knob.search} is empty.")
        require(
            knob.start is None or low <= knob.start <= high,
            f"Knob {knob.name} starts at {knob.start}, outside of its search range {knob.search}.",
        )


def _knobs(method: Method, per: str, generator: np.random.RandomState) -> dict[str, float]:
    """Return random values of the `source` or `merge` knobs of a method."""
    return {
        knob.name: _value_at(knob, float(generator.uniform()))
        for knob in method.knobs
        if knob.per == per
    }


def _between(
    method: Method, per: str, given: Sequence[Mapping[str, float]], share: float
) -> list[dict[str, float]]:
    """Return the same knobs for each of the given sources, at a share of their search ranges."""
    knobs = [knob for knob in method.knobs if knob.per == per]
    return [{knob.name: _value_at(knob, share) for knob in knobs} for _ in given]


def _value_at(knob: Knob, share: float) -> float:
    """Return the value at a share (0 to 1) of a knob's search range, or its default without one."""
    if knob.search is None:
        if knob.default is None:
            raise AssertionError(f"Knob {knob.name} has neither a default nor a search range.")
        return knob.default
    value = knob.search[0] + share * (knob.search[1] - knob.search[0])
    return value if knob.kind == "real" else float(round(value))
