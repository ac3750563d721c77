"""Mergekit files as `evomerge merge` is given them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evomerge.errors import RecipeError
from evomerge.export.recipe import merge_recipe

DATA = {
    "merge_method": "linear",
    "models": [{"model": "zoo:base"}],
    "parameters": {"weight": 1},
}


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (2, "has 2: Key 'note0' .*; remove it. Key 'note1' .*; remove it.$"),
        (5, "has 5: Key 'note0' .*Key 'note4' .*; remove it.$"),
    ],
)
def test_strict_says_all_that_mergekit_ignores(tmp_path: Path, count: int, words: str) -> None:
    file = tmp_path / "one.yml"
    file.write_text(yaml.safe_dump(DATA | {f"note{i}": "mine" for i in range(count)}))
    with pytest.raises(RecipeError, match=words):
        merge_recipe(file, tmp_path / "out", "8GB", "5GB", strict=True)
    assert not (tmp_path / "out").exists()
