"""Cards of parents that somebody else has written: read in bounded time, and only as texts."""

import pytest
import tiny

from evomerge.export.parents import common_licence, describe_parents
from evomerge.models.references import open_parent

pytestmark = pytest.mark.thorough

LEVELS = ", ".join(f"&b{i + 1} [{','.join([f'*b{i}'] * 9)}]" for i in range(9))
ALIASES = f"license: other\nlicense_name: [&b0 [x,x,x,x,x,x,x,x,x], {LEVELS}]"
MERGED = "\n".join(
    ["a0: &a0 {x: 1}"]
    + [f"a{i + 1}: &a{i + 1} {{<<: [{','.join([f'*a{i}'] * 9)}]}}" for i in range(9)]
    + ["license: mit"]
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny.make(tmp_path_factory.mktemp("cards") / "model", "llama")
    return open_parent(str(folder), folder)


def described(model, metadata):
    (model.folder / "README.md").write_text(f"---\n{metadata}\n---\n# A model\n")
    return [describe_parents({"model": model})["model"]]


@pytest.mark.parametrize("metadata", [ALIASES, MERGED, "[" * 5000, "license: [", "license: {a: 1}"])
def test_a_card_that_expands_or_is_damaged_says_nothing(model, metadata):
    assert common_licence(described(model, metadata)) is None


@pytest.mark.parametrize("name", ["9" * 5000, "[a, b]", "{a: 1}", "1.5", "true"])
def test_a_name_that_is_no_text_is_left_out(model, name):
    found = common_licence(described(model, f"license: other\nlicense_name: {name}"))
    assert found in (None, {"license": "other"})


def test_texts_of_a_card_are_one_printable_line(model):
    text = f'license: other\nlicense_name: "a\\e[31m\\nb"\nlicense_link: {"x" * 5000}'
    licence = common_licence(described(model, text))
    assert licence is not None and licence["license_name"] == "a [31m b"
    assert len(licence["license_link"]) < 1000
