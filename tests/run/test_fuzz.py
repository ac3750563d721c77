"""The file of a search in stages with any bytes."""

from hypothesis import given
from mutations import FUZZ, value_or_error, yaml_files

from evomerge.run.folder import STAGES
from evomerge.setup.stages import run_stages

STAGED = {
    "parents": ["zoo:language", "zoo:maths"],
    "objectives": [{"task": "zoo_maths", "metric": "exact_match"}],
    "budget": {"candidates": 3},
    "stages": [{"seed": 1, "budget": {"candidates": 4}}, {"parents": ["stage:1", "zoo:maths"]}],
    "origin": "/nowhere",
    "allow_pickle": False,
}


@FUZZ
@given(data=yaml_files(STAGED))
def test_stages(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("staged")
    (path / STAGES).write_bytes(data)
    value_or_error(lambda: run_stages(path, lambda run, problem: None))
