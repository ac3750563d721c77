"""A search that is refused before anything was scored leaves nothing in the place of its run."""

import shutil

import pytest
import tiny
from judging import SPLITS
from search_run import SMALL

import evomerge
from evomerge import zoo
from evomerge.errors import CheckpointError
from evomerge.merging.backend import check_finite
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source

pytestmark = pytest.mark.thorough

FEW = {"include": ["zoo:tasks"], **SPLITS}
CONFIG = {**SMALL, "evaluation": FEW, "budget": {"candidates": 4}}
BAD = "model.layers.4.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """An expert of the zoo with one weight that is not a number."""
    folder = shutil.copytree(zoo.path("maths"), tmp_path_factory.mktemp("models") / "maths")
    tiny.rewrite(folder, lambda tensors: tensors[BAD].view(-1)[77:78].fill_(float("nan")))
    return str(folder)


PATHS = {"kind": "dataflow", "variant": "swaps", "scales": 1.0}

PLACES = {
    "the first parent": lambda broken: {"parents": [broken, "zoo:language"]},
    "the base": lambda broken: {"base": broken},
    "a later parent of paths": lambda broken: {
        "parents": ["zoo:language", broken],
        "space": PATHS,
    },
}


@pytest.mark.parametrize("place", PLACES)
def test_a_weight_that_is_not_a_number_is_found_before_the_first_score(broken, tmp_path, place):
    with pytest.raises(CheckpointError) as caught:
        evomerge.search(CONFIG | PLACES[place](broken), tmp_path / "run", progress=False)
    assert str(caught.value) == (
        f"{BAD}: 1 of 24576 weights of {broken!r} are NaN or infinite, and so is every merge of "
        "them; repair the file, or remove the parent."
    )
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_weights_that_no_recipe_reads_may_be_anything(tmp_path):
    folder = tiny.make(tmp_path / "model")
    name = "model.layers.1.mlp.up_proj.weight"
    tiny.rewrite(folder, lambda tensors: tensors[name].fill_(float("inf")))
    model = Checkpoint.open(folder, "m")

    def path(*blocks):
        layers = tuple(Layer("passthrough", (Source("m", block),)) for block in blocks)
        whole = Layer("passthrough", (Source("m"),))
        return Recipe("m", {"model.layers": layers}, whole, whole, "float32")

    check_finite({"m": model}, [path(0, 2), path(2, 2, 0)])
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight: 384 of 384"):
        check_finite({"m": model}, [path(0, 2), path(0, 1, 2)])
