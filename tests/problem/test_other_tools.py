"""`evomerge init FILE --from`: a search file for a file of mergekit or mergekit-evolve."""

import pytest
import yaml
from safetensors.torch import load_file

import evomerge
from evomerge.__main__ import run
from evomerge.config.schema import load, read
from evomerge.errors import ConfigError
from evomerge.problem.runs import prepare

LINEAR = {
    "merge_method": "linear",
    "models": [
        {"model": "zoo:language", "parameters": {"weight": 0.6}},
        {"model": "zoo:maths", "parameters": {"weight": 0.6}},
    ],
    "parameters": {"normalize": False},
    "dtype": "float32",
}
EVOLVE = {
    "genome": {
        "models": ["zoo:language", "zoo:maths"], "base_model": "zoo:base",
        "merge_method": "task_arithmetic", "layer_granularity": 2, "tokenizer_source": "base",
    },
    "tasks": [{"name": "zoo_l2_maths", "metric": "exact_match,none", "weight": 3}],
    "limit": 30,
}  # fmt: skip


@pytest.fixture
def drafted(tmp_path, monkeypatch, capsys):
    """A function that drafts a search file from another tool's one; returns it and what is said."""
    monkeypatch.chdir(tmp_path)

    def draft(keys, *words):
        (tmp_path / "theirs.yml").write_text(yaml.safe_dump(keys))
        code = run(["init", "mine.yaml", "--from", "theirs.yml", *words])
        return code, tmp_path / "mine.yaml", capsys.readouterr().err

    return draft


def test_a_search_starts_in_the_middle_at_the_merge_of_the_file(drafted, tmp_path):
    code, file, _ = drafted(LINEAR, "--task", "zoo_l2_maths")
    assert code == 0
    space = prepare(load(file), tmp_path).space
    recipe = space.decode(tuple(gene.start for gene in space.genes))
    evomerge.merge(recipe, tmp_path / "middle")
    evomerge.merge(tmp_path / "theirs.yml", tmp_path / "theirs")
    middle, theirs = (
        load_file(tmp_path / name / "model.safetensors") for name in ("middle", "theirs")
    )
    assert middle.keys() == theirs.keys()
    assert all(tensor.equal(theirs[name]) for name, tensor in middle.items())


def test_a_config_of_mergekit_evolve_is_searched_as_it_is(drafted, tmp_path):
    code, file, said = drafted(EVOLVE)
    assert code == 0
    assert "`apply_chat_template` is not carried over, since the host has no chat template" in said
    data = read(file)
    assert data["space"]["groups"] == 3 and data["tokenizer"] == "base"
    assert data["objectives"] == [{"task": "zoo_l2_maths", "metric": "exact_match", "weight": 3.0}]
    assert data["evaluation"]["search"] == {"documents": 30}
    assert data["evaluation"]["chat_template"] is False
    small = data | {"evaluation": data["evaluation"] | {"test": {"documents": 10}}}
    found = evomerge.search(small, tmp_path / "run", candidates=7, progress=False)
    assert len(found.candidates) == 7


def test_a_path_of_slices_is_drafted_and_its_search_file_is_valid(drafted, tmp_path):
    slices = [
        {"sources": [{"model": "zoo:language", "layer_range": layers}]}
        for layers in ([0, 4], [2, 6])
    ]
    code, file, _ = drafted(
        {"merge_method": "passthrough", "slices": slices}, "--task", "zoo_l2_maths"
    )
    assert code == 0
    problem = prepare(load(file), tmp_path)
    assert problem.config.space.is_path and problem.space.max_depth == 8


def test_models_beside_the_file_are_named_as_seen_from_the_search_file(drafted, tmp_path):
    evomerge.merge(evomerge.Recipe.from_yaml(_copy_of("zoo:maths")), tmp_path / "own")
    (tmp_path / "sub").mkdir()
    keys = {**LINEAR, "models": [*LINEAR["models"][:1], {**LINEAR["models"][1], "model": "own"}]}
    (tmp_path / "theirs.yml").write_text(yaml.safe_dump(keys))
    words = ["--from", "theirs.yml", "--task", "zoo_l2_maths"]
    assert run(["init", "sub/mine.yaml", *words]) == 0
    assert read(tmp_path / "sub" / "mine.yaml")["parents"] == [
        "zoo:language",
        str(tmp_path / "own"),
    ]


def _copy_of(model):
    source = {"parent": model}
    path = {"method": "passthrough", "sources": [source]}
    layers = [{**path, "sources": [{**source, "layer": layer}]} for layer in range(6)]
    return yaml.safe_dump(
        {"host": model, "layers": {"model.layers": layers}, "embeddings": path, "head": path}
    )


@pytest.mark.parametrize(
    ("keys", "words", "says"),
    [
        (LINEAR, [], "theirs.yml names no task, which a search needs to score merges; give --task"),
        (EVOLVE, ["--base", "zoo:base"], "and so do --parents and --base; give one or the other"),
        ({**LINEAR, "merge_method": "task_arithmetic", "models": [{"model": "zoo:base"}],
          "base_model": "zoo:base"}, [], "lists no model besides the base"),
        ({"parents": []}, [], "no file of mergekit or mergekit-evolve"),
    ],
)  # fmt: skip
def test_what_cannot_be_drafted_is_said(drafted, tmp_path, keys, words, says):
    with pytest.raises(ConfigError) as error:
        drafted(keys, *words)
    assert says in str(error.value) and not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize(
    ("keys", "words", "note"),
    [
        (EVOLVE, ["--task", "zoo_facts"], "`tasks` (zoo_l2_maths) are not carried over"),
        ({**EVOLVE, "tasks": ["zoo_l2_maths"]}, [], "`metric` 'acc' is not carried over"),
        ({**LINEAR, "merge_method": "karcher", "parameters": {}}, ["--task", "zoo_facts"],
         "`merge_method` karcher is not carried over"),
    ],
)  # fmt: skip
def test_what_is_not_carried_over_is_said(drafted, keys, words, note):
    code, file, said = drafted(keys, *words)
    assert code == 0 and note in said
    evomerge.validate(file)
