"""Every search file of configs/ is valid, with stand-ins for models and data sets of the Hub."""

import json
import shutil
from pathlib import Path

import pytest
from page_stand_ins import stand_in_for_datasets, stand_in_for_models, write_models
from typer.testing import CliRunner

from evomerge.cli.commands import app
from evomerge.trust.code import Permissions

pytestmark = pytest.mark.thorough

CONFIGS = Path(__file__).parents[2] / "configs"


def japanese(text):
    return {"question": f"{text}は何ですか", "answer_number": 7}


def dates(text):
    return {"input": f"When was {text}?\n(A) today\n(B) yesterday", "target": "(B)"}


def rows(make, **sizes):
    return {split: [make(f"{split} {i}") for i in range(size)] for split, size in sizes.items()}


DATA = {
    "SakanaAI/gsm8k-ja-test_250-1319": rows(japanese, test=1069),
    "juletxara/mgsm": rows(lambda text: japanese(f"次の{text}"), train=8, test=250),
    "SaylorTwift/bbh": rows(dates, test=250),
}
"""Data set -> split -> documents: as many as the search files take."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A copy of the search files with all that they name in reach."""
    folder = tmp_path_factory.mktemp("shelf")
    shutil.copytree(CONFIGS, folder / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(Permissions, "require", lambda *_: None)
        stand_in_for_models(patch, write_models(folder / "models"))
        stand_in_for_datasets(patch, DATA, ["bbh/zeroshot"])
        yield folder


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_a_search_file_is_valid_as_it_is(shelf, name):
    words = ["validate", f"configs/{name}", "--json"]
    found = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    assert found["candidates"] > found["population"]
    on_a_benchmark = any("public benchmark" in note for note in found["warnings"])
    assert on_a_benchmark == (name == "lorahub.yaml")
