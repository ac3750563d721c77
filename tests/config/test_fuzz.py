"""Overrides of any keys, references of any text, and numbers that are not finite."""

import json

import pytest
from draws import FUZZ, value_or_error, yaml_files
from hypothesis import given
from hypothesis import strategies as st
from search_run import SMALL as SEARCH

from evomerge.config.schema import load, parse
from evomerge.models.references import open_parent
from evomerge.problem.runs import prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("config")


KEYS = [
    "seed",
    "space.knobs.weight",
    "space.groups",
    "objectives.0.task",
    "parents.1",
    "evaluation",
]
KEYS += ["objectives.²", "parents." + "9" * 5000, "a..b", "seed.x", "", ".", "space."]


@FUZZ
@given(
    key=st.sampled_from(KEYS) | st.text(max_size=12),
    value=yaml_files([0.0, {"a": "b"}]).map(lambda data: data.decode("utf-8", "surrogateescape")),
)
def test_overrides(folder, key, value):
    path = folder / "good.yaml"
    path.write_text(json.dumps(SEARCH))
    value_or_error(lambda: load(path, [f"{key}={value}"]))


def test_an_override_changes_one_place_of_an_anchored_value(tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text(
        "parents: [a]\nobjectives: [{task: t}]\nevaluation:\n"
        "  search: &same {documents: 5}\n  validation: *same\n"
    )
    config = load(path, ["evaluation.search.documents=7"])
    assert config.evaluation.search.documents == 7
    assert config.evaluation.validation.documents == 5


@pytest.mark.parametrize("prefix", ["", "run:", "merge:", "zoo:", "zoo:base+", "org/name@"])
@pytest.mark.parametrize(
    "name", ["~nobody/x", "x" * 5000, "a\0b", "..", "~", "é" * 300, "/" * 5000]
)
def test_references_of_any_text(tmp_path, prefix, name):
    """No reference of a parent, of any text, raises an error of the file system."""
    value_or_error(lambda: open_parent(prefix + name, tmp_path))
    config = parse({**SEARCH, "parents": [prefix + name], "base": None}, "search.yaml")
    value_or_error(lambda: prepare(config, tmp_path))
