"""mergekit-evolve configs as search files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.config.schema import parse
from evomerge.errors import EvomergeError, RecipeError
from evomerge.mergekit import convert, convert_file

EVOLVE = """
genome:
  models: [org/one, org/two]
  base_model: org/base
  merge_method: dare_ties
  layer_granularity: 8
  normalize: true
  allow_negative_weights: true
  smooth: true
  filters: [self_attn, mlp]
  tokenizer_source: union
tasks:
- {name: maths, weight: 2.0, metric: "exact_match,strict"}
- {name: text, weight: -1, metric: "word_perplexity,none"}
limit: 64
num_fewshot: 3
"""


def test_a_mergekit_evolve_config_becomes_a_search_file() -> None:
    text = convert(EVOLVE, {"org/base": 32}.__getitem__)
    config = parse(yaml.safe_load(text), "converted")
    assert config.parents == ["org/one", "org/two"]
    assert (config.base, config.tokenizer) == ("org/base", "union")
    space = config.space
    assert (space.method, space.groups, space.smooth) == ("dare_ties", 4, True)
    assert space.components == ["attention", "mlp"]
    assert space.knobs == {"weight": (-1.0, 1.0), "normalize": 1.0}
    found = [(item.task, item.metric, item.weight) for item in config.objectives]
    assert found == [("maths", "exact_match,strict", 2.0), ("text", "word_perplexity", 1.0)]
    assert config.evaluation.search.documents == 64
    assert config.evaluation.fewshot == 3
    assert config.budget.candidates == 100
    assert "# text had the weight -1" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("genome:", "genom:", "Did you mean 'genome'"),
        ("layer_granularity", "layer_granulrity", "Did you mean 'layer_granularity'"),
        ("granularity: 8", "granularity: 7", "must divide the number of layers, 32"),
        ("dare_ties", "dare_tise", "Did you mean 'dare_ties'"),
        ("self_attn", "self_atn", "Did you mean 'self_attn'"),
        ("weight: 2.0", "weigth: 2.0", "Did you mean 'weight'"),
        ("weight: 2.0", "weight: 0", "leave the task out"),
        ("limit: 64", "limit: 0", "`limit` is 0"),
        ("limit: 64", "shuffle: true", "`shuffle` is set"),
    ],
)
def test_wrong_evolve_configs_are_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        convert(EVOLVE.replace(old, new), {"org/base": 32}.__getitem__)


def test_the_layers_of_local_models_are_counted(
    llamas: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = llamas["a"].folder
    monkeypatch.chdir(folder.parent)
    file = tmp_path / "evolve.yml"
    text = EVOLVE.replace("org/base", "./a").replace("granularity: 8", "granularity: 1")
    file.write_text(text)
    assert yaml.safe_load(convert_file(file))["space"]["groups"] == 3
    with pytest.raises(EvomergeError, match="does not exist"):
        convert_file(tmp_path / "nothing.yml")
