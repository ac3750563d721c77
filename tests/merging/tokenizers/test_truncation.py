"""Vocabularies of different sizes that are cut to the smallest one."""

from __future__ import annotations

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import VOCABULARY, WORDS

from evomerge.errors import CheckpointError
from evomerge.export.recipe import merge_recipe
from evomerge.models.safetensors import read_json


def file_of_two(folder, words):
    """Return a mergekit file of two models, of which the second one has more rows."""
    tiny.make(folder / "one", seed=1)
    tiny.make(folder / "two", seed=2, vocab_size=VOCABULARY + 3, tokenizer=False)
    tiny.save_tokenizer(folder / "two", words)
    file = folder / "merge.yml"
    file.write_text(
        f"merge_method: linear\nmodels: [{{model: {folder}/two}}, {{model: {folder}/one}}]\n"
        "parameters: {weight: 0.5}\n"
    )
    return file


def test_rows_that_a_parent_lacks_are_cut_off_with_a_warning(tmp_path):
    file = file_of_two(tmp_path, [*WORDS, "x", "y", "z"])
    with pytest.raises(CheckpointError, match="their vocabularies differ"):
        merge_recipe(file, tmp_path / "refused", "8GB", "5GB")
    (note,) = merge_recipe(file, tmp_path / "out", "8GB", "5GB", truncate=True)
    assert f"rows are cut to {VOCABULARY}" in note
    again = tmp_path / "out" / "evomerge_recipe.yaml"
    merge_recipe(again, tmp_path / "again", "8GB", "5GB")
    names = ("one", "two", "out", "again")
    one, two, out, same = (load_file(tmp_path / n / "model.safetensors") for n in names)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(out[name], (one[name] + two[name][:VOCABULARY]) / 2)
        assert torch.equal(out[name], same[name])
    assert read_json(tmp_path / "out" / "config.json")["vocab_size"] == VOCABULARY
    assert not (tmp_path / "again" / "mergekit_config.yml").exists()


def test_ids_of_other_tokens_are_still_refused(tmp_path):
    file = file_of_two(tmp_path, [*WORDS[:-1], "other"])
    with pytest.raises(CheckpointError, match=f"id {VOCABULARY - 1} is the token"):
        merge_recipe(file, tmp_path / "out", "8GB", "5GB", truncate=True)
