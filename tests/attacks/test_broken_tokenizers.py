"""A tokenizer that transformers cannot load is found by `validate`, not first by the search."""

import json
import shutil

import pytest
from search_run import SMALL

from evomerge import zoo
from evomerge.config.schema import parse
from evomerge.errors import CheckpointError
from evomerge.setup.runs import prepare

pytestmark = pytest.mark.thorough

CONFIGS = {
    "a list as class": ({"tokenizer_class": ["x"]}, "'list' object"),
    "a mapping as class": ({"tokenizer_class": {"x": 1}}, "'dict' object"),
    "a side that is none": ({"padding_side": "up"}, "'right' and 'left'"),
    "a side as number": ({"truncation_side": 7}, "'right' and 'left'"),
    "a length as text": ({"model_max_length": "x"}, "'int' and 'str'"),
}


@pytest.fixture
def host(tmp_path):
    folder = tmp_path / "host"
    shutil.copytree(zoo.path("base"), folder)
    return folder


def check(host, **changes):
    return prepare(parse({**SMALL, "base": str(host), **changes}, "search.yaml"), host.parent)


@pytest.mark.parametrize("case", CONFIGS)
def test_a_setting_that_transformers_cannot_use_is_refused(host, case):
    changes, told = CONFIGS[case]
    file = host / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(CheckpointError) as caught:
        check(host)
    assert f"{str(host)!r} has no tokenizer that transformers can load" in str(caught.value)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_candidates_do_not_have_may_be_anything(host, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(zoo.path("maths"), other)
    file = other / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "padding_side": "up"}))
    assert check(host, parents=["zoo:language", str(other)])
    with pytest.raises(CheckpointError, match="'right' and 'left'"):
        check(host, parents=["zoo:language", str(other)], tokenizer=str(other))


@pytest.mark.parametrize("name", ["tokenizer.json", "special_tokens_map.json"])
@pytest.mark.parametrize("target", ["itself", "nothing"])
def test_a_link_that_leads_nowhere_is_refused(host, name, target):
    (host / name).unlink(missing_ok=True)
    (host / name).symlink_to(name if target == "itself" else "nothing")
    with pytest.raises(CheckpointError, match=rf"{name} is a link that leads to no file"):
        check(host)
