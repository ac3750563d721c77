"""What `optimizer: {name: cycleqd}` cannot be combined with is said in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.config.schema import parse
from evomerge.errors import InputError
from evomerge.setup.runs import prepare

GOOD = {
    "parents": ["zoo:language", "zoo:maths"],
    "base": "zoo:base",
    "optimizer": {"name": "cycleqd"},
    "objectives": [
        {"task": "zoo_l2", "metric": "exact_match"},
        {"task": "zoo_maths", "metric": "exact_match"},
    ],
    "evaluation": {
        "include": ["zoo:tasks"],
        "search": {"documents": 12},
        "validation": {"documents": 8},
        "test": {"documents": 8},
    },
}


def options(**given: object) -> dict[str, object]:
    return {"optimizer": {"name": "cycleqd", "options": given}}


TOKENS = [*GOOD["objectives"], {"task": "zoo_maths", "metric": "tokens"}]

WRONG = {
    "keeps the best model on one objective .* only zoo_l2/exact_match": {
        "objectives": GOOD["objectives"][:1]
    },
    "optimizer.options: .*`bin`.*bins": options(bin=3),
    "optimizer.options: `bins`.* 1": options(bins=0),
    "optimizer.options: `sigma`.* 0.3": options(sigma=1.0),
    "optimizer.options: `mutation`.* 10": options(mutation=11),
    "optimizer.options: `aggregate`": options(aggregate=-1),
    "`bounds.zoo_l2/exact_match` is 1; it must be a list": options(
        bounds={"zoo_l2/exact_match": 1}
    ),
    "`bounds.zoo_l2/exact_match` is .*; it must have at most 2 entries": options(
        bounds={"zoo_l2/exact_match": [0, 1, 2]}
    ),
    "`optimizer.sigma` has no meaning .*'cycleqd'": {
        "optimizer": {"name": "cycleqd", "sigma": 0.02}
    },
    "optimizer.options: `bounds.*low < high": options(bounds={"zoo_l2/exact_match": [1, 0]}),
    "`optimizer.options.bounds` has 'zoo_l3/exact_match', .*[Dd]id you mean": options(
        bounds={"zoo_l3/exact_match": [0, 1]}
    ),
    "`optimizer.options.members_on_disk` is 'much'": options(members_on_disk="much"),
    "zoo_maths/tokens has another range": {"objectives": TOKENS},
    "'cycleqd' adds task vectors, .* set `base`": {"base": None},
    "`space.groups` has no meaning for the optimizer 'cycleqd'": {"space": {"groups": 2}},
    "`space.kind` has no meaning for the optimizer 'cycleqd'": {"space": {"kind": "dataflow"}},
    "`tokenizer` is 'union'": {"tokenizer": "union"},
    "merges two models at a time": {"parents": ["zoo:language"]},
    "`evaluation.racing` scores fewer documents .* single objectives": {
        "evaluation": {**GOOD["evaluation"], "racing": {"enabled": True, "minimum": 4}}
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_suit_cycleqd_is_refused(message):
    with pytest.raises(InputError, match=message):
        prepare(parse(GOOD | WRONG[message], "search.yaml"), Path.cwd())


def test_a_metric_of_another_range_has_bounds():
    bounds = options(bounds={"zoo_maths/tokens": [0, 20]})
    problem = prepare(parse(GOOD | bounds | {"objectives": TOKENS}, "search.yaml"), Path.cwd())
    assert problem.config.evaluation.racing.enabled is False
    assert problem.config.executor.order == "arrival"
