"""Vocabularies of different sizes that are cut to the smallest one."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import VOCABULARY, WORDS

from evomerge.errors import CheckpointError
from evomerge.export.recipe import merge_recipe
from evomerge.models.safetensors import read_json


def file_of_two(folder: Path, words: list[str]) -> Path:
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


def test_rows_that_a_parent_lacks_are_cut_off_with_a_warning(tmp_path: Path) -> None:
    file = file_of_two(tmp_path, [*WORDS, "x", "y", "z"])
    with pytest.raises(CheckpointError, match="their vocabularies differ"):
        merge_recipe(file, tmp_path / "refused", "8GB", "5GB")
    notes = merge_recipe(file, tmp_path / "out", "8GB", "5GB", truncate=True)
    assert len(notes) == 1
    assert f"rows are cut to {VOCABULARY}" in notes[0]
    one, two, out = (load_file(tmp_path / n / "model.safetensors") for n in ("one", "two", "out"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert len(two[name]) == VOCABULARY + 3
        torch.testing.assert_close(out[name], (one[name] + two[name][:VOCABULARY]) / 2)
    assert read_json(tmp_path / "out" / "config.json")["vocab_size"] == VOCABULARY
    merge_recipe(tmp_path / "out" / "evomerge_recipe.yaml", tmp_path / "again", "8GB", "5GB")
    weights = {(tmp_path / n / "model.safetensors").read_bytes() for n in ("out", "again")}
    assert len(weights) == 1
    assert not (tmp_path / "again" / "mergekit_config.yml").exists()


def test_ids_of_other_tokens_are_still_refused(tmp_path: Path) -> None:
    file = file_of_two(tmp_path, [*WORDS[:-1], "other"])
    with pytest.raises(CheckpointError, match=f"id {VOCABULARY - 1} is the token"):
        merge_recipe(file, tmp_path / "out", "8GB", "5GB", truncate=True)
