"""The data-flow and joint spaces: laws, start, repair, error messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import joint, paths

from evomerge.errors import ConfigError
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import check_knobs
from evomerge.recipe import Layer, Recipe, Source, knob_at
from evomerge.space.paths.joint import JointSpace
from evomerge.space.paths.path import Hop, Path, describe, layers_of, path_of
from evomerge.space.protocol import Gene, Space
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
    "matrix": lambda: paths("sakana", DEPTHS, FRAME, scale_coding="matrix", layers=(3, 9)),
    "network": lambda: paths(
        "sakana", DEPTHS, FRAME, scale_coding="network", scale_hidden=3, start=(2.0, 0.0)
    ),
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
JOINT: dict[str, Callable[[], JointSpace]] = {
    "joint": lambda: joint(
        {HOST: 4, OTHER: 4}, FRAME, "linear",
        knobs={"weight": (0.0, 1.5), "normalize": 1.0}, repeats=2,
    ),
    "joint, with a flag": lambda: joint(
        {HOST: 2, OTHER: 2}, FRAME, "linear",
        knobs={"weight": 0.5, "normalize": (0.0, 1.0)}, scales=1.0,
    ),
    "joint, with a base": lambda: joint(
        {HOST: 3, OTHER: 3}, FRAME, "ties", base="zoo:base", embeddings=False,
        knobs={"weight": (0.0, 1.5), "density": (0.1, 1.0), "lambda": (0.5, 2.0)},
        layers=(2, 3),
    ),
}  # fmt: skip


def values(gene: Gene) -> st.SearchStrategy[float]:
    if gene.kind == "real":
        edges = st.sampled_from((gene.low, gene.high, gene.start))
        return edges | st.floats(gene.low, gene.high, allow_nan=False)
    return st.integers(int(gene.low), int(gene.high)).map(float)


@pytest.mark.parametrize("name", SPACES)
@given(data=st.data())
@settings(max_examples=draws(60), deadline=None)
def test_every_genome_decodes_to_a_recipe(name: str, data: Any) -> None:
    space = SPACES[name]()
    recipe = space.decode(data.draw(st.tuples(*map(values, space.genes))))
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert len(recipe.layers["model.layers"]) <= space.max_depth


@pytest.mark.parametrize("name", JOINT)
@given(data=st.data())
@settings(max_examples=draws(60), deadline=None)
def test_every_merge_of_a_joint_recipe_has_knobs_that_its_method_allows(
    name: str, data: Any
) -> None:
    space = JOINT[name]()
    recipe = space.decode(data.draw(st.tuples(*map(values, space.genes))))
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    for layer in recipe.every_layer():
        check_knobs(
            get_method(layer.method),
            [{knob: knob_at(value, "") for knob, value in item.knobs.items()}
             for item in layer.sources],
            {knob: knob_at(value, "") for knob, value in layer.knobs.items()},
            has_base=layer.base is not None,
        )  # fmt: skip


@pytest.mark.parametrize("name", JOINT)
def test_joint_spaces_keep_the_laws(name: str) -> None:
    check_space(JOINT[name]())


def test_the_largest_depth_is_that_of_the_longest_path_or_the_deepest_parent() -> None:
    depths = {name: make().max_depth for name, make in (SPACES | JOINT).items()}
    assert depths["matrix"] == 9 and depths["network"] == 2 * (4 + 5) + 1
    assert depths["dropping"] == 4 and depths["plain"] == 6  # the host with 4, a bound of 6
    assert depths["slices, always scaled"] == 5 and depths["slices, any depth"] == 3 * 5
    assert depths["swaps"] == 5  # paths are as deep as the host, but a parent has 5
    assert depths["joint"] == 2 * 4 and depths["joint, with a base"] == 3


@pytest.mark.parametrize("name", [name for name in SPACES if "always" not in name])
def test_genes_start_within_their_range_and_have_unique_names(name: str) -> None:
    space = SPACES[name]()
    assert len({gene.name for gene in space.genes}) == len(space.genes)
    for gene in space.genes:
        assert gene.low <= gene.start <= gene.high


@pytest.mark.parametrize(
    "name", ["matrix", "network", "structured, free ends", "plain", "slices, any depth"]
)
def test_search_starts_at_the_path_of_the_host(name: str) -> None:
    space = SPACES[name]()
    assert space.decode(start(space)) == whole_parent()


@pytest.mark.parametrize("name", SPACES)
def test_genomes_of_parents_decode_to_the_parents(name: str) -> None:
    space = SPACES[name]()
    genomes = space.baseline_genomes()
    for parent, (genome,) in genomes.items():
        assert space.decode(genome) == space.baselines()[parent]
    has_none = {
        "structured",  # at least 5 blocks
        "dropping",  # at most 3 blocks
        "slices, plain",  # 6 blocks
        "slices, always scaled",
        "swaps",  # always scaled
    }
    assert list(genomes) == ([] if name in has_none else [HOST])


def test_the_start_is_repaired_to_the_wanted_depth() -> None:
    space = paths("structured", DEPTHS, FRAME, layers=(6, 6))
    found = path(space, start(space))
    # The blocks of the host are all included. The missing ones come from the earliest slots.
    assert [(hop.parent, hop.layer) for hop in found] == [
        (HOST, 0), (HOST, 1), (HOST, 2), (HOST, 3), (OTHER, 0), (HOST, 3)
    ]  # fmt: skip


def test_layout_is_host_first_and_ends_are_fixed() -> None:
    space = paths("structured", {OTHER: 2, HOST: 3}, FRAME, repeats=2)
    genes = [gene.name for gene in space.genes if gene.kind == "binary"]
    a, b = HOST, OTHER
    assert genes == [
        f"in.{slot}"
        for slot in (
            f"{a}[1]", f"{a}[2]", f"{b}[0]", f"{b}[1]",
            f"{a}[0]#2", f"{a}[1]#2", f"{a}[2]#2", f"{b}[0]#2", f"{b}[1]#2",
        )
    ]  # fmt: skip
    nothing = path(space, tuple(gene.low for gene in space.genes))
    assert [(hop.parent, hop.layer) for hop in nothing] == [(HOST, 0), (HOST, 2)]


def test_paper_space_has_the_papers_size() -> None:
    two = {"A": 32, "B": 32}
    frame = replace(FRAME, host="A", embeddings=Layer("passthrough", (Source("A"),)))
    free = paths("sakana", two, frame, repeats=3, scale_coding="matrix", ends="free")  # fmt: skip
    assert len(free.genes) == 64 * 3 + 64 * 64
    auto = paths("sakana", two, frame, repeats=3)
    assert len(auto.genes) < 64 * 3 + 64


def test_the_first_block_has_no_scale() -> None:
    space = paths("sakana", DEPTHS, FRAME, scale_coding="matrix")
    genome = tuple(0.7 if gene.name.startswith("scale") else gene.start for gene in space.genes)
    assert [hop.scale for hop in path(space, genome)] == [1.0, 0.7, 0.7, 0.7]


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
    firsts_and_lasts = {
        f"slice{i}.{end}": float(at)
        for i, (_, a, b) in enumerate(slices)
        for end, at in (("first", a), ("last", b))
    }
    parents = {
        f"slice{i}.parent": float(list(depths).index(p)) for i, (p, _, _) in enumerate(slices)
    }
    named = firsts_and_lasts | parents
    assert space.decode(tuple(named[gene.name] for gene in space.genes)) == recipe
    assert describe(recipe) == "A0-16 B8-24 A17-32 B25-40 A33-48 (A = X, B = E)"


def test_a_slice_given_in_reverse_is_put_in_order() -> None:
    space = paths("frankenmerge", DEPTHS, FRAME, slices=(1, 1), scales=1.0)
    assert [hop.layer for hop in path(space, (1.0, 3.0, 1.0))] == [1, 2, 3]


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


def test_slices_of_one_parent_have_no_genes_for_it() -> None:
    space = paths("frankenmerge", {HOST: 4}, FRAME, slices=(3, 3), scales=(0.5, 1.5))
    assert [gene.name for gene in space.genes] == [
        "slice0.first", "slice0.last",
        "slice1.first", "slice1.last", "slice1.scale",
        "slice2.first", "slice2.last", "slice2.scale",
    ]  # fmt: skip
    assert space.decode(space.baseline_genomes()[HOST][0]) == space.baselines()[HOST]


def test_baselines_are_the_parents_themselves() -> None:
    baselines = paths("structured", DEPTHS, FRAME).baselines()
    assert list(baselines) == [HOST, OTHER]
    other = baselines[OTHER]
    sources = {source.parent for layer in other.every_layer() for source in layer.sources}
    assert sources == {OTHER} and len(other.layers["model.layers"]) == 5


def test_joint_repeats_a_depth_with_other_weights() -> None:
    space = joint(
        {HOST: 2, OTHER: 2}, FRAME, "linear", knobs={"weight": (0.0, 2.0)},
        repeats=2, scales=1.0, ends="free",
    )  # fmt: skip
    genes = {gene.name: gene.start for gene in space.genes}
    genes |= {"in.zoo:language[1]#2": 1.0, "block[1]#2.zoo:maths.weight": 0.25}
    recipe = space.decode(tuple(genes.values()))
    assert describe(recipe) == (
        "[A0*1+B0*1] [A1*1+B1*1] [A1*1+B1*0.25] (linear; A = zoo:language, B = zoo:maths)"
    )


def test_a_joint_space_has_genomes_of_its_parents_and_their_average() -> None:
    genomes = JOINT["joint"]().baseline_genomes()
    assert set(genomes) == {HOST, OTHER, "uniform"}
    recipe = JOINT["joint"]().decode(genomes[OTHER][0])
    assert [layer.sources[0].layer for layer in recipe.layers["model.layers"]] == [0, 1, 2, 3]
    for layer in recipe.every_layer():
        assert [item.knobs["weight"] for item in layer.sources] == [0.0, 1.0]
    shallow = joint({HOST: 4, OTHER: 4}, FRAME, "linear", layers=(2, 3))
    assert shallow.baseline_genomes() == {}


def test_a_base_among_the_parents_is_no_source_of_a_joint_merge() -> None:
    space = joint({HOST: 2, "zoo:base": 2}, FRAME, "task_arithmetic",
                       base="zoo:base")  # fmt: skip
    for layer in space.decode(start(space)).every_layer():
        assert [source.parent for source in layer.sources] == [HOST]
        assert layer.base is not None and layer.base.parent == "zoo:base"


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "too deep": (lambda: paths("dropping", DEPTHS, FRAME, layers=(5, 6)), "space.layers"),
    "slices": (lambda: paths("frankenmerge", DEPTHS, FRAME, slices=(3, 5)), "space.slices"),
    "slices cannot reach": (
        lambda: paths("frankenmerge", DEPTHS, FRAME, slices=(1, 2), layers=(9, 9)), "space.layers",
    ),
    "shallow": (lambda: paths("swaps", {HOST: 4, OTHER: 3}, FRAME), "shallowest"),
    "depths": (
        lambda: joint(DEPTHS, FRAME, "linear"), "depths differ",
    ),
    "number of parents": (
        lambda: joint({HOST: 2, OTHER: 2, "c": 2}, FRAME, "slerp"),
        "'slerp', which takes exactly 2 parents, but `parents` names 3: .*; change `parents`",
    ),
    "no base": (
        lambda: joint({HOST: 2, OTHER: 2}, FRAME, "ties"), "`base`",
    ),
    "half a flag": (
        lambda: joint({HOST: 2, OTHER: 2}, FRAME, "linear",
                           knobs={"normalize": 0.303}),
        "normalize is 0.303.*off or on",
    ),
    "network away from 1": (
        lambda: paths("sakana", DEPTHS, FRAME, scales=(0.5, 0.9), scale_coding="network"),
        "contain 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_one_sentence_that_names_the_key(name: str) -> None:
    build, key = REFUSED[name]
    with pytest.raises(ConfigError, match=key):
        build()
