"""Vision-language models: text models merge into their language model, or two merge whole."""

from dataclasses import replace

import pytest
import seeing
import tiny
import torch
from draws import few
from merges import digest, every, mix, rates_of

from evomerge.errors import CheckpointError, RecipeError
from evomerge.merging.architecture.naming import with_host_names
from evomerge.merging.gradients import Gradients
from evomerge.merging.resident import Resident
from evomerge.merging.tensors.plan import Planner
from evomerge.merging.tokenizers.plan import plan_tokenizer
from evomerge.merging.writer import write_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import check_fit
from evomerge.models.parts import modality_misfit
from evomerge.models.stacks import modality_of
from evomerge.recipe import Recipe


def recipe_of(host, parents, **modalities):
    towers = {name: mix(shares) for name, shares in modalities.items()}
    return every(host, lambda i: mix(parents, i), dtype="float32", **towers)


def merged(recipe, parents, folder):
    """Write the merge, check that the resident model is the same, and load it."""
    write_model(recipe, parents, out := folder / "out")
    model = seeing.load(out)
    resident = Resident(parents, recipe.host, "float32")
    resident.apply(recipe)
    assert digest(resident.module) == digest(model)
    return model


@pytest.fixture(scope="module", params=few(seeing.FAMILIES, ("llava", "qwen2_vl", "gemma3")))
def family(request, tmp_path_factory):
    """Two vision-language models of a family, and its text model."""
    folder, kinds = tmp_path_factory.mktemp(request.param), {"a": "", "b": "", "text": "/text"}
    return {
        name: seeing.make(folder / name, f"{request.param}{kind}", seed)
        for seed, (name, kind) in enumerate(kinds.items())
    }


def test_a_text_model_merges_into_the_language_model_and_the_tower_stays(family, tmp_path):
    parents = {name: family[name] for name in ("a", "text")}
    check_fit(family["a"], list(parents.values()))
    recipe = recipe_of(family["a"], {"a": 0.25, "text": 0.75})
    after = dict(merged(recipe, parents, tmp_path).named_parameters())
    before = dict(seeing.load(family["a"].folder).named_parameters())
    for name, weight in tiny.load(family["text"].folder).named_parameters():
        (own,) = [key for key in after if same_place(key, name) and not modality_of(key)]
        torch.testing.assert_close(after.pop(own), before[own] * 0.25 + weight * 0.75)
    assert {modality_of(name) for name in after} == {"vision", "projector"}, "all else was merged"
    assert all(torch.equal(weight, before[name]) for name, weight in after.items())


def same_place(name, text):
    """Whether a tensor is a text model's, whose names begin with `model.` where it has blocks."""
    return name.endswith(text.removeprefix("model.")) and (
        name == text or "language_model." in name or "text_model." in name
    )


def test_two_models_merge_whole(family, tmp_path):
    parents = {name: family[name] for name in "ab"}
    shares, vision, projector = {"a": 0.25, "b": 0.75}, {"a": 0.5, "b": 0.5}, {"b": 1.0}
    recipe = recipe_of(family["a"], shares, vision=vision, projector=projector)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    after = dict(merged(recipe, parents, tmp_path).named_parameters())
    one, two = (dict(seeing.load(family[name].folder).named_parameters()) for name in "ab")
    for name, weight in after.items():
        share = {"vision": 0.5, "projector": 0.0, None: 0.25}[modality_of(name)]
        torch.testing.assert_close(weight, one[name] * share + two[name] * (1 - share))


@tiny.since_transformers_5
def test_names_of_the_tower_of_another_version_are_matched(tmp_path):
    parents = {name: seeing.make(tmp_path / name, "llava", seed) for seed, name in enumerate("ab")}

    def rename(tensors):
        for name in list(tensors):
            if name.startswith("vision_tower."):  # as in the files on the Hub
                tensors[f"vision_tower.vision_model.{name[13:]}"] = tensors.pop(name)

    tiny.rewrite(tmp_path / "b", rename)
    parents["b"] = Checkpoint.open(tmp_path / "b", "b")
    assert "counterpart" in (modality_misfit(parents["a"], parents["b"], "vision") or "")
    parents = with_host_names(parents, "a")
    assert modality_misfit(parents["a"], parents["b"], "vision") is None
    both = {"b": 1.0}
    model = merged(recipe_of(parents["a"], both, vision=both, projector=both), parents, tmp_path)
    assert digest(model) == digest(seeing.load(tmp_path / "b"))


def test_towers_of_other_sizes_are_no_obstacle_where_the_hosts_is_kept(tmp_path):
    host, text = seeing.make(tmp_path / "a", "llava"), seeing.make(tmp_path / "t", "llava/text")
    wide = seeing.make(tmp_path / "b", "llava", intermediate_size=24)
    deep = seeing.make(tmp_path / "c", "llava", num_hidden_layers=3)
    check_fit(host, [host, wide, deep])
    assert "[16] in 'a' and [24] in 'b'" in modality_misfit(host, wide, "vision")
    assert "encoder.layers.2" in modality_misfit(host, deep, "vision")
    assert modality_misfit(host, deep, "projector") is None
    planner = Planner({item.reference: item for item in (host, wide, text)}, "a")
    for words, towers in (
        ("different shapes", {"vision": {"a": 0.5, "b": 0.5}}),
        ("`vision` is merged, but 't' has no tensors", {"vision": {"a": 0.5, "t": 0.5}}),
        ("`audio` is merged, but 'a' has no tensors", {"audio": {"a": 1.0}}),
    ):
        with pytest.raises(RecipeError, match=words):
            list(planner.plan(recipe_of(host, {"a": 1.0}, **towers)))


NAMES = {
    "vision": "vision_tower.encoder.layers.0.fc1.weight model.visual.blocks.0.attn.qkv.weight",
    "audio": "audio_tower.layers.0.fc1.weight",
    "projector": "model.visual.merger.linear_fc1.weight model.embed_vision.embedding.weight "
    "model.visual.deepstack_merger_list.0.norm.weight image_newline model.aligner.linear1.weight "
    "multi_modal_projector.patch_merger.merging_layer.weight model.embed_audio.proj.weight "
    "model.connector.modality_projection.proj.weight",
    None: "model.layers.0.mlp.up_proj.weight vocab_projector.bias",
}


def test_modalities_are_found_by_names():
    for modality, names in NAMES.items():
        assert {modality_of(name) for name in names.split()} == {modality}


def test_the_token_of_an_image_is_never_lost(tmp_path):
    host, text = seeing.make(tmp_path / "a", "llava"), seeing.make(tmp_path / "t", "llava/text")
    few = [word for word in tiny.WORDS if word != tiny.WORDS[host.config["image_token_index"]]]
    tiny.save_tokenizer(tmp_path / "t", [few[-1], *few[:-1]])

    def plan(tokenizer):
        recipe = replace(recipe_of(host, {"a": 0.5, "t": 0.5}), tokenizer=tokenizer)
        return plan_tokenizer(recipe, {"a": host, "t": text}).rows.special_ids

    assert plan("union") == {}
    with pytest.raises(CheckpointError, match="'t', which lacks the token that image_token_index"):
        plan("t")
    tiny.save_tokenizer(tmp_path / "t", [*few, "more", tiny.WORDS[-1]])
    assert plan("t")["image_token_index"] == len(few) + 1


def test_gradients_reach_the_tower_through_what_the_model_sees(tmp_path):
    parents = {name: seeing.make(tmp_path / name, "llava", seed) for seed, name in enumerate("ab")}
    resident = Resident(parents, "a", "float64")
    pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()

    def loss(model, image=True):
        ids = torch.tensor([[1, *([seeing.TOKENS - 1] * 4), 5, 9]] if image else [[1, 5, 9]])
        seen = {"pixel_values": pixels} if image else {}
        return model(input_ids=ids, **seen).logits.log_softmax(-1)[0, -1, 5]

    def recipe(vision=0.4, projector=0.4):
        towers = {"vision": {"a": 1 - vision, "b": vision}}
        towers["projector"] = {"a": 1 - projector, "b": projector}
        return replace(recipe_of(parents["a"], {"a": 1.0}, **towers), dtype="float64")

    names = ("vision", "projector")
    moves = [(recipe(**{name: 0.39}), recipe(**{name: 0.41}), 0.02) for name in names]
    gradients, rates = Gradients(resident, 2), rates_of(resident, moves)
    with gradients.of(recipe(), rates) as (model, found):
        loss(model).backward()
    with torch.no_grad():
        ends = [[loss(resident.apply(it)) for it in pair] for *pair, _ in moves]
    expected = [float(upper - lower) / 0.02 for lower, upper in ends]
    assert found == pytest.approx(expected, rel=0.05) and all(map(abs, expected))
    with gradients.of(recipe(), rates) as (model, found):
        loss(model, image=False).backward()
    assert found == [0.0, 0.0], "a text says nothing about a tower"
