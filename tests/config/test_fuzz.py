"""References of any text, numbers that are not finite, and overrides of anchored values."""

import json

import pytest
from attacks.targets.searches import SEARCH
from mutations import value_or_error

from evomerge.config.schema import load, parse
from evomerge.errors import ConfigError
from evomerge.setup.runs import open_model, prepare


def test_an_override_changes_one_place_of_an_anchored_value(tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text(
        "parents: [a]\nobjectives: [{task: t}]\nevaluation:\n"
        "  search: &same {documents: 5}\n  validation: *same\n"
    )
    config = load(path, ["evaluation.search.documents=7"])
    assert config.evaluation.search.documents == 7
    assert config.evaluation.validation.documents == 5


@pytest.mark.parametrize("prefix", ["", "run:", "zoo:", "zoo:base+", "org/name@"])
@pytest.mark.parametrize(
    "name", ["~nobody/x", "x" * 5000, "a\0b", "..", "~", "é" * 300, "/" * 5000]
)
def test_references_of_any_text(tmp_path, prefix, name):
    """No reference of a parent, of any text, raises an error of the file system."""
    value_or_error(lambda: open_model(prefix + name, tmp_path))
    config = parse({**SEARCH, "parents": [prefix + name], "base": None}, "search.yaml")
    value_or_error(lambda: prepare(config, tmp_path))


@pytest.mark.parametrize("value", [".inf", "[0, .inf]", "[.nan, 1]", "1" + "0" * 350, "-.inf"])
@pytest.mark.parametrize("key", ["space.knobs.weight", "budget.hours", "objectives.0.weight"])
def test_numbers_of_a_search_file_are_finite(tmp_path, key, value):
    path = tmp_path / "good.yaml"
    path.write_text(json.dumps(SEARCH))
    with pytest.raises(ConfigError, match=key.rpartition(".")[2]):
        load(path, [f"{key}={value}"])
