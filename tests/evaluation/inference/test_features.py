"""Image features are computed once for all candidates that have the tower in common."""

from contextlib import contextmanager

import pytest
import seeing
import torch
from draws import few

from evomerge.evaluation.inference.features import ImageFeatures
from evomerge.merging.resident import Resident
from evomerge.recipe import Layer, Recipe, Source


def recipe_of(host, share, tower=None):
    """Merge `a` and `b`; `tower` is the share of `b` in the tower, and None leaves it to `a`."""

    def layer(share, number=None):
        shares = {"a": 1 - share, "b": share}
        sources = [Source(name, number, {"weight": weight}) for name, weight in shares.items()]
        return Layer("linear", sources)

    stack = host.decoder_stack
    blocks = {stack.prefix: [layer(share, number) for number in range(len(stack))]}
    towers = {} if tower is None else {"vision": layer(tower)}
    return Recipe("a", blocks, layer(share), layer(share), dtype="float32", **towers)


@contextmanager
def counted(model):
    """Count how often the vision tower of a model runs."""
    names = ("vision_tower", "vision_model", "visual")
    tower = next(getattr(model.model, name) for name in names if hasattr(model.model, name))
    calls = []
    handle = tower.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


@pytest.fixture(scope="module", params=few(seeing.FAMILIES, ("llava", "qwen2_vl", "gemma3")))
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    kind = request.param
    parents = {name: seeing.make(folder / name, kind, seed) for seed, name in enumerate("ab")}
    return parents, seeing.prompts(seeing.load(parents["a"].folder), 2)


def test_kept_features_change_no_bit_and_save_the_tower(family):
    parents, prompts = family
    resident, features = Resident(parents, "a", "float32"), ImageFeatures(10**6)
    for number, (share, tower) in enumerate([(0.3, None), (0.6, None), (0.6, 0.5), (0.3, 0.5)]):
        model = resident.apply(recipe_of(parents["a"], share, tower))
        plain = [seeing.generate(model, prompt) for prompt in prompts]
        with counted(model) as calls:
            for _ in range(2):
                with features.kept(model, resident.tower):
                    found = [seeing.generate(model, prompt) for prompt in prompts]
                assert all(map(torch.equal, found, plain)), (share, tower)
        assert len(calls) == (0 if number % 2 else len(prompts)), "once for each tower"
        assert "get_image_features" not in vars(model.model)
    assert not torch.equal(*plain), "an image counts"


def test_what_does_not_fit_is_computed_again(tmp_path):
    parents = {name: seeing.make(tmp_path / name, "llava", seed) for seed, name in enumerate("ab")}
    resident = Resident(parents, "a", "float32")
    model = resident.apply(recipe_of(parents["a"], 0.3))
    prompts = seeing.prompts(model, 3)
    plain = [seeing.generate(model, prompt) for prompt in prompts]
    size = 4 * 16 * 4  # tokens of an image, hidden size, bytes of a number
    for memory, kept in ((0, 0), (size - 1, 0), (2 * size, 2)):
        features = ImageFeatures(memory)
        with features.kept(model, resident.tower):
            for prompt in prompts:
                seeing.generate(model, prompt)
        with counted(model) as calls, features.kept(model, resident.tower):
            found = [seeing.generate(model, prompt) for prompt in prompts]
        assert all(map(torch.equal, found, plain))
        assert len(calls) == 3 - kept
