"""The data-flow spaces: laws, start, repair, error messages."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from spaces import paths

from evomerge.recipe import Layer, Recipe, Source
from evomerge.space.paths import Hop, Path, describe, layers_of, path_of
from evomerge.space.protocol import Space
from evomerge.testing import check_space

HOST, OTHER = "zoo:language", "zoo:maths"
DEPTHS = {HOST: 4, OTHER: 5}
WHOLE = Layer("passthrough", (Source(HOST),))
FRAME = Recipe(host=HOST, layers={}, embeddings=WHOLE, head=WHOLE)


def whole_parent(parent: str = HOST, depth: int = 4) -> Recipe:
    return replace(FRAME, layers={"model.layers": layers_of(Hop(parent, i) for i in range(depth))})


def path(space: Space, genome: tuple[float, ...]) -> Path:
    return path_of(space.decode(genome).layers["model.layers"])


def start(space: Space) -> tuple[float, ...]:
    return tuple(gene.start for gene in space.genes)


SPACES: dict[str, Callable[[], Space]] = {
    "matrix": lambda: paths("sakana", DEPTHS, FRAME, layers=(3, 9)),
    "matrix, as in the paper": lambda: paths("sakana", DEPTHS, FRAME, start=(2.0, 0.0)),
    "structured": lambda: paths("structured", DEPTHS, FRAME, layers=(5, 8)),
    "structured, free ends": lambda: paths("structured", DEPTHS, FRAME, ends="free", repeats=3),
    "plain": lambda: paths("structured", DEPTHS, FRAME, scales=1.0, layers=(2, 6)),
    "one block": lambda: paths("structured", {HOST: 1, OTHER: 2}, FRAME, ends="free", repeats=1),
    "dropping": lambda: paths("dropping", DEPTHS, FRAME, scales=1.0, layers=(2, 3)),
    "slices": lambda: paths("frankenmerge", DEPTHS, FRAME, slices=(2, 4), layers=(4, 7)),
    "slices, any depth": lambda: paths("frankenmerge", DEPTHS, FRAME, slices=(1, 3)),
    "slices, plain": lambda: paths(
        "frankenmerge", DEPTHS, FRAME, slices=(3, 3), scales=1.0, layers=(6, 6)
    ),
    "slices, always scaled": lambda: paths(
        "frankenmerge", DEPTHS, FRAME, slices=(2, 3), scales=(0.5, 0.9), layers=(3, 5)
    ),
    "swaps": lambda: paths("swaps", DEPTHS, FRAME, scales=(0.4, 0.9)),
    "swaps, plain": lambda: paths("swaps", DEPTHS, FRAME, scales=1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", ["matrix", "structured, free ends", "plain", "slices, any depth"])
def test_search_starts_at_the_path_of_the_host(name: str) -> None:
    space = SPACES[name]()
    assert space.decode(start(space)) == whole_parent()


@pytest.mark.parametrize("name", SPACES)
def test_genomes_of_parents_decode_to_the_parents(name: str) -> None:
    space = SPACES[name]()
    genomes = space.baseline_genomes()
    baselines = space.baselines()
    for parent, (genome,) in genomes.items():
        assert space.decode(genome) == baselines[parent]
    for parent, recipe in baselines.items():
        own = {source.parent for layer in recipe.every_layer() for source in layer.sources}
        assert own == {parent}
    check_space(space)
    # With 5 blocks or more, 3 or fewer, 6; and always scaled.
    has_none = {"structured", "dropping", "slices, plain", "slices, always scaled", "swaps"}
    assert list(genomes) == ([] if name in has_none else [HOST])


def test_paper_space_has_the_papers_size() -> None:
    free = paths("sakana", {HOST: 32, OTHER: 32}, FRAME, repeats=3, ends="free")
    assert len(free.genes) == 64 * 3 + 64 * 64


def test_a_block_has_the_scale_of_its_slot() -> None:
    space = paths("structured", DEPTHS, FRAME, ends="free", repeats=1)
    values = {gene.name: 0.5 + place / 100 for place, gene in enumerate(space.genes)}
    genome = tuple(values[gene.name] if gene.kind == "real" else 1.0 for gene in space.genes)
    first, *others = path(space, genome)
    assert first.scale == 1.0
    for hop in others:
        assert hop.scale == values[f"scale.{hop.parent}[{hop.layer}]"]


def test_a_path_that_is_too_long_loses_the_slots_with_the_lowest_indicators() -> None:
    space = paths("sakana", DEPTHS, FRAME, repeats=1, scales=1.0, layers=(1, 4))
    indicators = {f"in.{HOST}[2]": 1.5, f"in.{OTHER}[0]": 0.5, f"in.{OTHER}[4]": 0.6}
    genome = tuple(indicators.get(gene.name, -1.0) for gene in space.genes)
    assert [(h.parent, h.layer) for h in path(space, genome)] == [
        (HOST, 0), (HOST, 2), (OTHER, 4), (HOST, 3)
    ]  # fmt: skip


def test_the_slice_space_contains_goliath() -> None:
    depths = {"X": 80, "E": 80}
    slices = [("X", 0, 16), ("E", 8, 24), ("X", 17, 32), ("E", 25, 40), ("X", 33, 48)]
    whole = Layer("passthrough", (Source("X"),))
    frame = Recipe(host="X", layers={}, embeddings=whole, head=whole)
    space = paths("frankenmerge", depths, frame, slices=(5, 5), scales=1.0)
    hops = [Hop(parent, layer) for parent, a, b in slices for layer in range(a, b + 1)]
    recipe = replace(frame, layers={"model.layers": layers_of(hops)})
    named: dict[str, float] = {}
    for place, (parent, first, last) in enumerate(slices):
        found = {"parent": list(depths).index(parent), "first": first, "last": last}
        named |= {f"slice{place}.{key}": float(value) for key, value in found.items()}
    assert space.decode(tuple(named[gene.name] for gene in space.genes)) == recipe
    assert describe(recipe) == "A0-16 B8-24 A17-32 B25-40 A33-48 (A = X, B = E)"


@pytest.mark.parametrize("name", [name for name in SPACES if name.startswith(("slices", "swaps"))])
def test_every_gene_of_slices_and_swaps_has_an_effect(name: str) -> None:
    """On some genome each other value of it gives another recipe."""
    space = SPACES[name]()
    random = np.random.RandomState(0)
    idle = {gene.name for gene in space.genes}
    for _ in range(100):
        genome = [
            random.uniform(g.low, g.high) if g.kind == "real" else random.randint(g.low, g.high + 1)
            for g in space.genes
        ]
        before = space.decode(tuple(genome))
        for place, gene in enumerate(space.genes):
            changed = list(genome)
            changed[place] = gene.high if genome[place] < gene.high else gene.low
            if space.decode(tuple(changed)) != before:
                idle.discard(gene.name)
    assert not idle
