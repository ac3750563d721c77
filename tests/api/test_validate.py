"""A search file can be checked from Python."""

from pathlib import Path

import pytest
from search_run import SMALL, write_search

import evomerge
from evomerge import zoo
from evomerge.errors import ConfigError


def test_the_answer_is_that_of_a_file_and_a_mistake_is_an_error(tmp_path: Path) -> None:
    found, of_file = evomerge.validate(SMALL), evomerge.validate(write_search(tmp_path))
    assert found["valid"] and found["dimension"] == 8 and isinstance(found["warnings"], list)
    assert of_file | {"free_memory": found["free_memory"]} == found  # it differs from now to then
    with pytest.raises(ConfigError, match=r"Did you mean .seed."):
        evomerge.validate(SMALL | {"sede": 1})


def test_genes_have_short_names_of_folders(tmp_path: Path) -> None:
    folders = SMALL | {"parents": [str(zoo.path(name)) for name in ("language", "maths")]}
    found = evomerge.validate(folders)["genes"]
    assert [gene["name"].split(".")[1] for gene in found[:2]] == ["language", "maths"]
    swaps = folders | {"space": {"kind": "dataflow", "variant": "swaps"}}
    assert evomerge.validate(swaps)["genes"][0]["choices"] == ["language", "maths"]
    told = {"objectives": [{"told": "wins"}], "evaluation": {}}
    with evomerge.Study(folders | told, run=tmp_path / "run") as study:
        asked = next(asked for asked in study if asked.genes)
        assert "embeddings.maths.weight" in asked.genes
        assert study.genes(asked.number) == asked.genes
