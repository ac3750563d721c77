"""A search file can be checked from Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from search_run import SMALL, write_search

import evomerge
from evomerge import zoo
from evomerge.errors import ConfigError


def test_the_answer_has_genes_documents_and_warnings(tmp_path: Path) -> None:
    found = evomerge.validate(SMALL)
    assert found["valid"] and found["dimension"] == 8
    assert found["genes"][0]["low"] == 0.0
    assert isinstance(found["warnings"], list)
    of_file = evomerge.validate(write_search(tmp_path))
    assert of_file | {"free_memory": found["free_memory"]} == found  # it differs from now to then


def test_genes_have_short_names_of_folders(tmp_path: Path) -> None:
    folders = SMALL | {"parents": [str(zoo.path(name)) for name in ("language", "maths")]}
    found = evomerge.validate(folders)["genes"]
    assert [gene["name"].split(".")[1] for gene in found[:2]] == ["language", "maths"]
    swaps = {"kind": "dataflow", "variant": "swaps"}
    assert evomerge.validate(folders | {"space": swaps})["genes"][0]["choices"] == [
        "language",
        "maths",
    ]
    told = {"objectives": [{"told": "wins"}], "evaluation": {}}
    with evomerge.Study(folders | told, run=tmp_path / "run") as study:
        asked = next(asked for asked in study if asked.genes)
        assert "embeddings.maths.weight" in asked.genes
        assert study.genes(asked.number) == asked.genes


def test_a_mistake_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean .seed."):
        evomerge.validate(SMALL | {"sede": 1})
    with pytest.raises(ConfigError, match=r"config is 3; give the path of a search file, or"):
        evomerge.validate(3)  # type: ignore[arg-type]
