"""`evomerge convert` prints a search file that can be searched without changes."""

import pytest
import yaml
from search_run import evomerge

from evomerge import zoo
from evomerge.__main__ import run as call
from evomerge.config.schema import load
from evomerge.errors import InputError
from evomerge.setup.runs import prepare

NAMES = ("language", "maths", "base")


def config(**genome):
    language, maths, base = (str(zoo.path(name)) for name in NAMES)
    return {
        "genome": {
            "models": [language, maths],
            "base_model": base,
            "merge_method": "ties",
            "layer_granularity": 2,
            "filters": ["self_attn", "mlp"],
        }
        | genome,
        "tasks": [{"name": "zoo_l2_maths", "metric": "exact_match,none", "weight": 2.0}],
        "limit": 20,
    }


def test_the_printed_search_file_does_the_same_search(tmp_path):
    (tmp_path / "evolve.yaml").write_text(yaml.safe_dump(config()))
    done = evomerge("convert", tmp_path / "evolve.yaml")
    assert done.stderr.startswith("note: `limit`: mergekit-evolve takes the first 20 documents")
    search = yaml.safe_load(done.stdout)
    assert (
        search["space"] | {"method": "ties", "components": ["attention", "mlp"]}
        == (search["space"])
    )
    assert search["evaluation"]["search"] == {"documents": 20}
    search["evaluation"] |= {
        "include": ["zoo:tasks"],
        "validation": {"documents": 5},
        "test": {"documents": 5},
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(search))
    problem = prepare(load(tmp_path / "search.yaml"), tmp_path)
    assert list(problem.checkpoints) == [str(zoo.path(name)) for name in NAMES]
    assert [item.key for item in problem.objectives] == ["zoo_l2_maths/exact_match"]
    layers = 2 * search["space"]["groups"]
    assert layers == len(next(iter(problem.space.baselines().values())).layers["model.layers"])


def test_a_mergenetic_config_is_searched_without_changes(tmp_path):
    language, maths, base = (str(zoo.path(name)) for name in NAMES)
    (tmp_path / "mergenetic.yaml").write_text(
        yaml.safe_dump(
            {
                "pop_size": 4,
                "n_iter": 2,
                "base_model": base,
                "models": {"l2": language, "en": maths},
                "langs": ["l2", "en"],
                "tasks": {"search": {"l2": "zoo_l2_maths", "en": "zoo_maths"}},
                "metric": "exact_match",
                "additional_templates_folder": "zoo:tasks",
            }
        )
    )
    done = evomerge("convert", tmp_path / "mergenetic.yaml")
    (tmp_path / "search.yaml").write_text(done.stdout)
    problem = prepare(load(tmp_path / "search.yaml"), tmp_path)
    assert len(problem.space.genes) == 4  # a weight and a density for each model
    assert problem.config.budget.candidates == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist|cannot be read"),
        ("tasks: []", "`genome` is missing"),
        ("genom: {}", "has the keys `genome` and `tasks`"),
        ("{merge_method: linear, models: []}", "is a mergekit file.*`evomerge merge"),
        ("{base_model: a, experts: []}", "is a file of mergekit-moe.*`mergekit-moe"),
        ("{parents: [a], objectives: []}", "already a search file"),
        (yaml.safe_dump(config(merge_method="tie")), "Did you mean 'ties'"),
        (yaml.safe_dump(config(layer_granularity=5)), "`genome.layer_granularity` is 5"),
    ],
)
def test_a_config_that_cannot_be_converted_is_one_sentence(tmp_path, capsys, text, words):
    file = tmp_path / "evolve.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        call(["convert", str(file)])
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""
