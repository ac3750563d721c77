"""The parameter space: its laws, genes, baselines and error messages."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import parameters

from evomerge.errors import ConfigError
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Knob, Method, check_knobs
from evomerge.recipe import Recipe, knob_at
from evomerge.space.layer_genes import rounded
from evomerge.space.parameters import BlockStack
from evomerge.testing import check_space

FILTERS = {"attention": ("self_attn",), "mlp": ("mlp", "experts"), "norm": ("layernorm",)}
NAMES = ("linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties")


def odd_method(given, out, **knobs):
    raise NotImplementedError


ODD = Method(
    name="odd",
    title="knobs of every kind, some shared with other methods in another range",
    function=odd_method,
    knobs=(
        Knob("weight", 1.0, -2, 2, "source", search=(-1.0, 1.0), start=0.25),
        Knob("rank", 4, 1, 64, "source", "integer", search=(1, 9)),
        Knob("normalize", 1.0, 0, 1, "merge", "flag", search=(0, 1)),
        Knob("epsilon", 1e-5, 0, 1, "merge", search=(1e-7, 3e-5)),
    ),
    parents=(1, None),
    base="optional",
)


def method(name):
    return ODD if name == "odd" else get_method(name)


def make(names=("task_arithmetic",), parents=("a", "b"), layers=6, **keys):
    keys = {"method_per": "group", **keys}
    return parameters([method(name) for name in names], parents, layers=layers, **keys)


@st.composite
def spaces(draw):
    layers = draw(st.integers(1, 7))
    smooth = draw(st.booleans()) and layers > 1
    choices = [st.integers(1 + smooth, layers), st.just("each")]
    knobs = {}
    if draw(st.booleans()):
        knobs["weight"] = draw(
            st.sampled_from([0.5, (0.0, 1.0), (-0.7, 0.9), (1 / 3, 2 / 3), (0.0, 1e-9)])
        )
    names = draw(st.lists(st.sampled_from([*NAMES, "odd"]), min_size=1, max_size=4, unique=True))
    try:
        return make(
            names,
            draw(st.sampled_from([("a", "b"), ("b", "base", "a")])),
            layers,
            groups=draw(st.one_of(*choices, *([] if smooth else [st.just("one")]))),
            smooth=smooth,
            components=draw(st.lists(st.sampled_from(sorted(FILTERS)), unique=True)),
            filters=FILTERS,
            embeddings=draw(st.booleans()),
            method_per=draw(st.sampled_from(["model", "group"])),
            knobs={name: knobs[name] for name in knobs if names != ["slerp"]},
        )
    except ConfigError:
        return make(names, ("a", "b"), layers)


def genomes(space):
    def gene(gene):
        if gene.kind == "real":
            return st.floats(gene.low, gene.high)
        return st.integers(int(gene.low), int(gene.high)).map(float)

    return st.tuples(*map(gene, space.genes))


@settings(deadline=None)
@given(st.data())
def test_every_genome_decodes_to_a_recipe_whose_knobs_the_methods_take(data):
    space = data.draw(spaces())
    genome = data.draw(genomes(space))
    recipe = space.decode(genome)
    equal = tuple(-0.0 if value == 0 else int(value) if value == 1 else value for value in genome)
    short = tuple(rounded(gene, value) for gene, value in zip(space.genes, genome, strict=True))
    for same in (genome, equal, short):
        assert space.decode(same).digest == recipe.digest
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    for layer in recipe.every_layer():
        for name in ("self_attn.weight", "mlp.weight", "other.weight"):

            def at(knobs, name=name):
                return {knob: knob_at(value, name) for knob, value in knobs.items()}

            sources = [at(source.knobs) for source in layer.sources]
            check_knobs(
                method(layer.method), sources, at(layer.knobs), has_base=layer.base is not None
            )


@settings(deadline=None)
@given(st.data())
def test_a_gene_changes_nothing_outside_of_its_place(data):
    """The genes of a group change its blocks, and embeddings and head if these have no genes."""
    space = make(("ties",), groups=3, embeddings=data.draw(st.booleans()), filters=FILTERS)
    genome = list(data.draw(genomes(space)))
    before = space.decode(tuple(genome))
    index = data.draw(st.integers(0, len(genome) - 1))
    gene = space.genes[index]
    genome[index] = gene.low if genome[index] > (gene.low + gene.high) / 2 else gene.high
    after = space.decode(tuple(genome))
    names = ["embeddings", *(f"layers[{i // 2 * 2}:{i // 2 * 2 + 2}]" for i in range(6)), "head"]
    of = [(it.embeddings, *it.layers["model.layers"], it.head) for it in (before, after)]
    changed = {name for name, old, new in zip(names, *of, strict=True) if old != new}
    place = gene.name.split(".")[0]
    ends = {"layers[0:2]": {"embeddings"}, "layers[4:6]": {"head"}}.get(place, set())
    shared = set() if any(gene.name.startswith("embeddings") for gene in space.genes) else ends
    assert changed == {place} | shared


def test_components_and_the_rest_have_their_own_numbers():
    space = make(("linear",), components=["mlp", "attention"], filters=FILTERS, embeddings=False)
    recipe = space.decode(tuple(0.1 * i for i in range(1, 7)))
    weight = recipe.layers["model.layers"][3].sources[1].knobs["weight"]
    assert knob_at(weight, "model.layers.3.self_attn.q_proj.weight") == 0.2
    assert knob_at(weight, "model.layers.3.mlp.up_proj.weight") == 0.4
    assert knob_at(weight, "model.layers.3.experts.0.weight") == 0.4
    assert knob_at(weight, "model.layers.3.input_layernorm.weight") == 0.6
    assert recipe.embeddings.sources[1].knobs["weight"] == 0.6


def test_smooth_knobs_are_interpolated_linearly_between_anchors():
    space = make(("linear",), ("a", "b"), 9, groups=3, smooth=True, embeddings=False)
    anchors = [f"layers[{anchor}].a.weight" for anchor in (0, 4, 8)]
    assert [gene.name for gene in space.genes[::2]] == anchors
    recipe = space.decode((0.0, 0.5, 1.0, 0.5, 0.2, 0.5))
    weights = [layer.sources[0].knobs["weight"] for layer in recipe.layers["model.layers"]]
    assert weights == [0.0, 0.25, 0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2]
    assert recipe.head.sources[0].knobs["weight"] == 0.2


@settings(deadline=None)
@given(st.data())
def test_by_default_the_whole_model_has_one_method(data):
    names = ("linear", "odd", "ties")
    space = make(names, groups=3, method_per="model", smooth=data.draw(st.booleans()))
    assert [gene.name for gene in space.genes if gene.kind == "choice"] == ["method"]
    genome = data.draw(genomes(space))
    assert {layer.method for layer in space.decode(genome).every_layer()} == {names[int(genome[0])]}
    apart = make(names, groups=3, method_per="group")
    assert len(apart.genes) == len(space.genes) + 4
    for label, found in space.baseline_genomes().items():
        others = apart.baseline_genomes()[label]
        assert list(map(space.decode, found)) == list(map(apart.decode, others))


def test_a_baseline_has_a_genome_for_each_method_that_can_express_it():
    def of(names, seed, **settings):
        space = make(names, method_per="model", frame={"seed": seed}, **settings)
        return space, space.baseline_genomes()["uniform"]

    names, firsts = ("slerp", "ties", "dare_ties"), []
    for seed in range(30):
        space, found = of(names, seed)
        assert {genome[0] for genome in found} == {0.0, 1.0, 2.0}
        assert len({genome[1:] for genome in found}) == 1  # it is the same with each method
        assert found == of(names, seed)[1]
        firsts.append(found[0][0])
        for genome in found:
            for layer in space.decode(genome).every_layer():
                for source in layer.sources:
                    assert source.knobs.get("weight", 0.5) == 0.5
                    assert source.knobs.get("density", 1.0) == 1.0
                assert layer.knobs.get("t", 0.5) == 0.5
    assert min(firsts.count(value) for value in (0.0, 1.0, 2.0)) > 3
    _, found = of(names, 0, knobs={"lambda": 0.5})
    assert [genome[0] for genome in found] == [0.0]  # only slerp has no such knob


def test_methods_share_a_gene_only_where_they_search_the_same_range():
    shared = make(("task_arithmetic", "ties", "dare_ties"))
    names = {gene.name for gene in shared.genes if gene.name.startswith("embeddings")}
    of = [f"{parent}.{knob}" for parent in "ab" for knob in ("weight", "density")]
    assert names == {f"embeddings.{name}" for name in ("method", *of)}
    apart = {gene.name for gene in make(("linear", "odd")).genes}
    assert {"embeddings.a.linear.weight", "embeddings.a.odd.weight"} <= apart


def test_a_setting_applies_to_the_methods_that_can_vary_the_knob():
    space = make(("task_arithmetic", "ties"), knobs={"density": (0.2, 0.9), "weight": 1.0})
    recipe = space.decode((0.0, 0.5, 0.5) * 3)
    assert recipe.embeddings.method == "task_arithmetic"
    assert recipe.embeddings.sources[0].knobs == {"weight": 1.0}
    recipe = space.decode((1.0, 0.5, 0.5) * 3)
    assert recipe.embeddings.sources[0].knobs == {"density": 0.5, "weight": 1.0}
    assert recipe.embeddings.knobs == {}, "those at their default are left out"


def test_baselines_are_each_parent_alone_and_the_average_of_the_experts():
    frame = {"tokenizer": "a", "dtype": "float32"}
    baselines = make(("ties",), ("base", "a", "b"), frame=frame).baselines()
    assert list(baselines) == ["base", "a", "b", "uniform"]
    alone = baselines["a"]
    assert (alone.host, alone.tokenizer, alone.dtype) == ("base", "a", "float32")
    for layer in alone.every_layer():
        (source,) = layer.sources
        assert (layer.method, source.parent, source.knobs) == ("linear", "a", {"weight": 1.0})
    for layer in baselines["uniform"].every_layer():
        assert [source.parent for source in layer.sources] == ["a", "b"]
    assert [layer.sources[0].layer for layer in alone.layers["model.layers"]] == list(range(6))


SEEING = {"vision": ("base", "a", "b"), "projector": ("base", "b", "a")}


def seeing(names=("task_arithmetic",), parents=("a", "text", "b"), modalities=None, **keys):
    keys = {"components": ["vision", "projector"], "filters": FILTERS, **keys}
    return make(names, parents, modalities=modalities or SEEING, **keys)


def test_a_named_tower_is_a_place_with_the_parents_that_have_it():
    space = seeing(groups=2, components=["projector", "vision"])
    names = [gene.name for gene in space.genes]
    ends = [f"{place}.{name}.weight" for place in ("vision", "projector") for name in "ab"]
    assert names[-4:] == ends
    recipe = space.decode(tuple(0.01 * i for i in range(len(names))))
    for layer, weights in ((recipe.vision, (0.12, 0.13)), (recipe.projector, (0.14, 0.15))):
        assert [(s.parent, s.knobs) for s in layer.sources] == [
            (name, {"weight": weight}) for name, weight in zip("ab", weights, strict=True)
        ]
        assert layer.base.parent == "base"
    assert recipe.audio is None
    assert recipe.head.sources[2].knobs == {"weight": 0.11}
    check_space(space)
    plain = make(parents=("a", "text", "b"), components=["mlp"], filters=FILTERS)
    assert seeing(components=["mlp"]).genes == plain.genes, "it is the host's unless it is named"


def test_baselines_take_a_tower_from_those_that_have_it():
    space = seeing()
    found = {label: (it.vision, it.projector) for label, it in space.baselines().items()}
    assert found["text"] == (None, None)
    assert [s.parent for s in found["uniform"][0].sources] == ["a", "b"]
    assert [s.parent for s in found["b"][1].sources] == ["b"]
    genomes = space.baseline_genomes()
    assert genomes["text"] == [(0.0, 1.0, 0.0) * 3 + (0.0, 0.0) * 2]
    assert genomes["b"] == [(0.0, 0.0, 1.0) * 3 + (0.0, 1.0) * 2]
    assert genomes["uniform"][0][-4:] == (0.5,) * 4


def test_a_pool_without_a_parent_that_has_a_tower_keeps_that_of_the_host():
    space = seeing(most_parents=1)
    text, a = (
        space.decode((*(float(name == one) for name in ("a", "text", "b")), *[0.5] * 13))
        for one in ("text", "a")
    )
    assert (text.vision, text.projector) == (None, None)
    assert [source.parent for source in a.vision.sources] == ["a"]
    check_space(space)


@pytest.mark.parametrize(
    ("names", "modalities", "sentence"),
    [
        (("ties",), {"vision": ("a", "b")}, "ties needs in the base 'base' and 1 parent or more"),
        (("linear",), {"vision": ("a",)}, "needs in 2 parents or more, but only a has it"),
        (("task_arithmetic",), {"projector": SEEING["vision"]}, "'vision', which this model does"),
        (("ties",), {"vision": ("base",)}, "but only base has it .*; remove 'vision', and merges"),
    ],
)
def test_a_tower_that_cannot_be_merged_is_refused(names, modalities, sentence):
    with pytest.raises(ConfigError, match=sentence):
        seeing(names, modalities=modalities, components=["vision"])


@pytest.mark.parametrize("smooth", [False, True])
def test_each_stack_has_as_many_groups_as_it_has_room_for(smooth):
    stacks = [
        BlockStack(f"{name}.block", n, {}, name) for name, n in (("encoder", 5), ("decoder", 2))
    ]
    space = parameters(("linear",), ("a",), None, stacks=stacks, groups=3, smooth=smooth)
    check_space(space)
    starts = ("0", "2", "4") if smooth else ("0:1", "1:3", "3:5")
    ends = ("0", "1") if smooth else ("0:1", "1:2")
    blocks = [f"encoder[{it}]" for it in starts] + [f"decoder[{it}]" for it in ends]
    places = ["embeddings", *blocks, "head"]
    assert [gene.name for gene in space.genes] == [f"{place}.a.weight" for place in places]
    recipe = space.decode((0.9, 0.1, 0.2, 0.3, 0.6, 0.7, 0.8))
    found = {name: [_weight(item) for item in layers] for name, layers in recipe.layers.items()}
    between = [0.1, 0.15, 0.2, 0.25, 0.3] if smooth else [0.1, 0.2, 0.2, 0.3, 0.3]
    assert found == {"encoder.block": pytest.approx(between), "decoder.block": [0.6, 0.7]}
    assert (_weight(recipe.embeddings), _weight(recipe.head)) == (0.9, 0.8)

    shared = parameters(("linear",), ("a",), None, stacks=stacks, groups=3, embeddings=False)
    recipe = shared.decode((0.1, 0.2, 0.3, 0.6, 0.7))
    assert (_weight(recipe.embeddings), _weight(recipe.head)) == (0.1, 0.7)


def _weight(layer):
    return layer.sources[0].knobs["weight"]
