"""A candidate has the generation config of its exported checkpoint."""

import json
from dataclasses import replace

import pytest
import tiny
from merges import every, mix

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.loading import generation_config
from evomerge.merging.backend import resident, write
from evomerge.models.checkpoint import Checkpoint

SWAPPED = [*tiny.WORDS]
SWAPPED[2], SWAPPED[9] = SWAPPED[9], SWAPPED[2]


def made(tmp_path, generation, config):
    """Return two parents, whose end tokens have other ids, and a recipe of them."""
    parents = {}
    for name, words, end in (("a", tiny.WORDS, 2), ("b", SWAPPED, 9)):
        folder = tiny.make(tmp_path / name, seed=end, tokenizer=False)
        tiny.save_tokenizer(folder, words)
        tiny.edit_config(folder, eos_token_id=end, **config)
        file = folder / "generation_config.json"
        file.write_text(json.dumps({"eos_token_id": end, **(generation or {})}))
        if generation is None:
            file.unlink()
        parents[name] = Checkpoint.open(folder, name)

    return parents, every(parents["a"], lambda i: mix("ab", i), dtype="float32")


@pytest.mark.parametrize("tokenizer", ["base", "union", "b"])
@pytest.mark.parametrize(
    ("generation", "config"),
    [({"top_k": 7}, {}), ({}, {"num_beams": 3}), (None, {}), (None, {"max_new_tokens": 3})],
    ids=["file", "file counts alone", "no file", "settings of an old model"],
)
def test_the_scored_model_generates_with_the_exported_settings(
    tmp_path, generation, config, tokenizer
):
    parents, recipe = made(tmp_path, generation, config)
    if tokenizer == "base":
        parents["b"] = Checkpoint.open(parents["a"].folder, "b")
    else:
        recipe = replace(recipe, tokenizer=tokenizer)
    scored = resident(parents, recipe, "cpu").apply(recipe).generation_config
    write(recipe, parents, tmp_path / "out")
    exported = tiny.load(tmp_path / "out").generation_config
    assert scored.to_dict() == exported.to_dict()
    assert scored.eos_token_id == (9 if tokenizer == "b" else 2)
    assert scored.top_k == (generation or {}).get("top_k", exported.top_k)
    if generation is None:
        assert scored.max_new_tokens == config.get("max_new_tokens")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"max_new_tokens": -1}', "generation_config.json has a setting .*`max_new_tokens` must"),
        ("[1]", "generation_config.json has a setting of generation that transformers refuses"),
        ("{", "generation_config.json"),
    ],
)
def test_a_setting_that_transformers_refuses_is_named(text, sentence):
    with pytest.raises(CheckpointError, match=sentence) as caught:
        generation_config({}, text)
    assert "\n" not in str(caught.value)
