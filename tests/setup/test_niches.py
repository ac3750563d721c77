"""What `optimizer: {name: niches}` cannot be combined with is said in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from evomerge.cli.commands import app
from evomerge.config.schema import parse
from evomerge.errors import InputError
from evomerge.setup.runs import prepare

GOOD = {
    "parents": ["zoo:language", "zoo:maths"],
    "optimizer": {"name": "niches"},
    "objectives": [{"task": "zoo_maths", "metric": "exact_match"}],
    "evaluation": {
        "include": ["zoo:tasks"],
        "search": {"documents": 12},
        "validation": {"documents": 8},
        "test": {"documents": 8},
    },
}
TOKENS = {"task": "zoo_maths", "metric": "tokens"}

WRONG = {
    "optimizer.options: .*`archiv`.*archive": {
        "optimizer": {"name": "niches", "options": {"archiv": 3}}
    },
    "optimizer.options: `archive`.* 2": {
        "optimizer": {"name": "niches", "options": {"archive": 1}}
    },
    "`optimizer.options.members_on_disk` is 'much'": {
        "optimizer": {"name": "niches", "options": {"members_on_disk": "much"}}
    },
    "`space.groups` has no meaning for the optimizer 'niches'": {"space": {"groups": 2}},
    "`space.kind` has no meaning for the optimizer 'niches'": {"space": {"kind": "dataflow"}},
    "`base` has no meaning": {"base": "zoo:base"},
    "`tokenizer` is 'union'": {"tokenizer": "union"},
    "`optimizer.start` has no meaning": {"optimizer": {"name": "niches", "start": ["best.yaml"]}},
    "`optimizer.sigma` has no meaning .*'niches'": {"optimizer": {"name": "niches", "sigma": 0.02}},
    "merges two models at a time": {"parents": ["zoo:language"]},
    "zoo_maths/tokens does not allow: lower values are better": {
        "objectives": [*GOOD["objectives"], TOKENS]
    },
    "`evaluation.racing` scores fewer documents": {
        "evaluation": {**GOOD["evaluation"], "racing": {"enabled": True, "minimum": 4}}
    },
    "optimizer.name is 'niche'; .*[Dd]id you mean 'niches'": {
        "optimizer": {"name": "niche"},
        "space": {"method": "linear"},
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_suit_niches_is_refused(message):
    with pytest.raises(InputError, match=message):
        prepare(parse(GOOD | WRONG[message], "search.yaml"), Path.cwd())


def test_a_search_by_niches_is_sequential_unless_it_has_a_population():
    problem = prepare(parse(GOOD, "search.yaml"), Path.cwd())
    assert problem.config.executor.order == "arrival"
    assert problem.config.evaluation.racing.enabled is False
    assert "niches keeps" in problem.fewer_documents
    populated = GOOD | {"optimizer": {"name": "niches", "population": 3}}
    assert (
        prepare(parse(populated, "search.yaml"), Path.cwd()).config.executor.order == "generation"
    )


def test_validate_prints_no_table_of_genes_where_there_are_none(tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    done = CliRunner().invoke(app, ["validate", str(file)])
    assert done.exit_code == 0, done.output
    assert "genes\t0" in done.stdout
    assert "set by" not in done.stdout
