"""A search that goes on with other versions than it began with says so, and goes on."""

from search_run import SMALL

import evomerge
from evomerge.config.schema import parse
from evomerge.run.folder import RunFolder
from evomerge.setup.freeze import freeze, installed_versions, other_versions
from evomerge.setup.runs import prepare


def test_the_packages_that_changed_are_named(tmp_path):
    small = {**SMALL, "budget": {"candidates": 3}}
    frozen = freeze(prepare(parse(small, "search.yaml"), tmp_path))
    assert frozen["frozen"]["versions"] == (installed_versions(parse(small, "search.yaml")))
    assert other_versions(parse(frozen, "search.yaml")) == ""

    frozen["frozen"]["versions"] |= {"torch": "0.1", "xyz-not-there": "3.0"}
    warning = other_versions(parse(frozen, "search.yaml"))
    assert "torch 0.1 (now " in warning and "xyz-not-there 3.0 (now none)" in warning
    assert "numpy" not in warning

    RunFolder.create(tmp_path / "run", frozen)
    run = evomerge.resume(tmp_path / "run", progress=False)
    assert run.status["state"] == "done"
    assert "The run began with torch 0.1" in (tmp_path / "run" / "log.txt").read_text()
