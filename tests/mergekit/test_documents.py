"""Files with several documents, as mergekit-multi reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evomerge.errors import InputError, RecipeError
from evomerge.export.recipe import merge_recipe
from evomerge.mergekit import documents, separated
from evomerge.setup.recipe_file import read_recipe_file

MANY = """
# three merges
---
name: soup
merge_method: linear
models: [{model: 'zoo:maths', parameters: {weight: 0.3}}, {model: 'zoo:facts'}]
parameters: {weight: 0.7}
dtype: float32
---
merge_method: ties
base_model: zoo:base
models: [{model: bent}, {model: 'zoo:language'}]
parameters: {weight: 0.5, density: 0.5}
dtype: float32
---
name: bent
merge_method: slerp
base_model: soup  # an earlier one
models: [{model: 'zoo:language'}]
parameters: {t: 0.25}
dtype: float32
--- # empty
"""


def build(folder: Path, name: str, data: object) -> None:
    """Build one mergekit file by itself, into a folder of the same name."""
    (folder / f"{name}.yml").write_text(yaml.safe_dump(data))
    merge_recipe(folder / f"{name}.yml", folder / name, "8GB", "5GB")


def test_documents_are_built_as_one_by_one_and_the_model_can_be_built_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "many.yml").write_text(MANY)
    merge_recipe(tmp_path / "many.yml", tmp_path / "many", "8GB", "5GB")
    soup, last, bent = (yaml.safe_load(part) for part in documents(MANY))
    build(tmp_path, "soup", soup)
    build(tmp_path, "bent", bent | {"base_model": str(tmp_path / "soup")})
    last["models"][0]["model"] = str(tmp_path / "bent")
    build(tmp_path, "last", last)
    many = tmp_path / "many"
    assert (many / "mergekit_config.yml").read_text() == MANY
    assert {"soup.yaml", "bent.yaml", "evomerge_recipe.yaml", "README.md"} <= {
        item.name for item in many.iterdir()
    }
    assert "zoo:facts" in (many / "README.md").read_text()
    merge_recipe(many / "evomerge_recipe.yaml", tmp_path / "again", "8GB", "5GB")
    weights = {(tmp_path / n / "model.safetensors").read_bytes() for n in ("many", "last", "again")}
    assert len(weights) == 1


def test_if_all_have_names_the_last_one_is_the_model_and_paths_are_anchored() -> None:
    first = "name: one\nmerge_method: karcher\nmodels: [{model: ./a}, {model: org/b}]\n"
    second = "name: two\nmerge_method: karcher\nmodels: [{model: one}, {model: ./a+./lora}]\n"
    last, parts = separated(f"{first}---\n{second}", lambda name: name.replace("./", "/home/"))
    assert [item["model"] for item in yaml.safe_load(last)["models"]] == [
        "merge:one.yaml",
        "/home/a+/home/lora",
    ]
    assert [item["model"] for item in yaml.safe_load(parts["one.yaml"])["models"]] == [
        "/home/a",
        "org/b",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [("one", "have the name 'one'"), ("../x", "`name` is '../x'"), (None, "have no `name`")],
)
def test_names_must_be_different_and_no_paths(name: str | None, message: str) -> None:
    part = {"merge_method": "karcher", "models": [{"model": "a"}, {"model": "b"}]}
    texts = [yaml.safe_dump(part | ({"name": n} if n else {})) for n in ("one", name, name)]
    with pytest.raises(RecipeError, match=message):
        separated("---\n".join(texts), str)


def test_a_merge_that_is_made_from_itself_is_refused(tmp_path: Path) -> None:
    text = "name: {0}\nmerge_method: karcher\nmodels: [{{model: {1}}}, {{model: zoo:base}}]\n"
    pairs = [("one", "two"), ("two", "one"), ("three", "one")]
    (tmp_path / "many.yml").write_text("---\n".join(text.format(*pair) for pair in pairs))
    with pytest.raises(
        RecipeError, match=r"^Document .one. is made .* \(document .one. -> document .two. -> "
    ):
        merge_recipe(tmp_path / "many.yml", tmp_path / "out", "8GB", "5GB")


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("models: [{model: org/missing}]", "^Document 'one' cannot be built: .*org/missing"),
        (
            "models: [{model: ./gone}]",
            r"Parent './gone' is no.* \('{folder}/gone' does not",
        ),
        (
            "slices: [{sources: [{model: 'zoo:base', layer_range: [0, 2]}]}]",
            "different numbers of them: 2 of document 'one', 6 of zoo:base",
        ),
    ],
)
def test_errors_name_documents_not_the_files_they_are_read_from(
    tmp_path: Path, models: str, words: str
) -> None:
    first = f"name: one\nmerge_method: linear\n{models}\nparameters: {{weight: 1}}\n"
    last = "merge_method: linear\nmodels: [{model: one}, {model: 'zoo:base'}]\n"
    (tmp_path / "many.yml").write_text(f"{first}---\n{last}parameters: {{weight: 1}}\n")
    with pytest.raises(InputError, match=words.replace("{folder}", str(tmp_path))) as caught:
        merge_recipe(tmp_path / "many.yml", tmp_path / "out", "8GB", "5GB")
    assert "evomerge-" not in str(caught.value)


def test_the_last_of_named_documents_is_no_source_of_the_others() -> None:
    text = "name: {0}\nmerge_method: karcher\nmodels: [{{model: {1}}}, {{model: org/b}}]\n"
    pairs = [("final", "soup"), ("soup", "org/a")]
    with pytest.raises(
        RecipeError, match=r"merges 'soup', but this is the last document.* move it"
    ):
        separated("---\n".join(text.format(*pair) for pair in pairs), str)


def test_a_parent_of_a_search_has_one_document(tmp_path: Path) -> None:
    (tmp_path / "many.yml").write_text(MANY)
    with pytest.raises(RecipeError, match="has 3 documents, which only `evomerge merge"):
        read_recipe_file(tmp_path / "many.yml", lambda name: pytest.fail(name))


def test_strict_counts_for_every_document(tmp_path: Path) -> None:
    (tmp_path / "many.yml").write_text(MANY.replace("name: soup", "name: soup\nnote: mine"))
    with pytest.raises(RecipeError, match=r"no warnings, but .*many.yml has 1: .*Key 'note'"):
        merge_recipe(tmp_path / "many.yml", tmp_path / "out", "8GB", "5GB", strict=True)
    notes = merge_recipe(tmp_path / "many.yml", tmp_path / "out", "8GB", "5GB")
    assert len(notes) == 1
    assert notes[0].startswith("Document 'soup': Key 'note'")


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (2, "has 2: Key 'note0' .*; remove it. Key 'note1' .*; remove it.$"),
        (5, "has 5: Key 'note0' .*Key 'note4' .*; remove it.$"),
    ],
)
def test_strict_says_all_that_mergekit_ignores(tmp_path: Path, count: int, words: str) -> None:
    data = {
        "merge_method": "linear",
        "models": [{"model": "zoo:base"}],
        "parameters": {"weight": 1},
    }
    file = tmp_path / "one.yml"
    file.write_text(yaml.safe_dump(data | {f"note{i}": "mine" for i in range(count)}))
    with pytest.raises(RecipeError, match=words):
        merge_recipe(file, tmp_path / "out", "8GB", "5GB", strict=True)
    assert not (tmp_path / "out").exists()
