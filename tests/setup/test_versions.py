"""A search that goes on with other versions or another processor says so, and goes on."""

import json
import os

import pytest
from search_run import SMALL, write_search
from search_run import evomerge as run_command

import evomerge
from evomerge.config.schema import parse, parse_manifest
from evomerge.evaluation.inference.device import processor
from evomerge.run.folder import RunFolder
from evomerge.setup.freeze import freeze, installed_versions, other_processor, other_versions
from evomerge.setup.runs import prepare

_CBWR = "AVX" if os.environ.get("MKL_CBWR") == "COMPATIBLE" else "COMPATIBLE"
OTHER = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": _CBWR}
"""An environment that makes another kind of any processor, also of one without AVX."""


def test_the_packages_that_changed_are_named(tmp_path):
    small = {**SMALL, "budget": {"candidates": 3}}
    manifest = freeze(prepare(parse(small, "search.yaml"), tmp_path))
    assert manifest["versions"] == (installed_versions(parse(small, "search.yaml")))
    assert other_versions(parse_manifest(manifest, "manifest.json")) == ""

    manifest["versions"] |= {"torch": "0.1", "xyz-not-there": "3.0"}
    warning = other_versions(parse_manifest(manifest, "manifest.json"))
    assert "torch 0.1 (now " in warning and "xyz-not-there 3.0 (now none)" in warning
    assert "numpy" not in warning

    RunFolder.create(tmp_path / "run", json.dumps(small), manifest)
    run = evomerge.resume(tmp_path / "run", progress=False)
    assert run.status["state"] == "done"
    assert "The run began with torch 0.1" in (tmp_path / "run" / "log.txt").read_text()


def test_the_kind_of_the_processor_is_kept_and_former_runs_have_none(tmp_path):
    manifest = freeze(prepare(parse(SMALL, "search.yaml"), tmp_path))
    assert manifest["processor"] == processor()
    assert other_processor(parse_manifest(manifest, "manifest.json")) == ""

    manifest["processor"] = "x86_64 elsewhere AVX2"
    assert "(x86_64 elsewhere AVX2; now " in other_processor(
        parse_manifest(manifest, "manifest.json")
    )
    del manifest["processor"]
    assert other_processor(parse_manifest(manifest, "manifest.json")) == ""


@pytest.mark.thorough
def test_a_search_that_goes_on_with_another_processor_says_so(tmp_path):
    file, run, same = write_search(tmp_path), tmp_path / "run", tmp_path / "same"
    run_command("search", file, "--run", run, "--candidates", 3, **OTHER)
    began = json.loads((run / "manifest.json").read_text())["processor"]
    assert began.endswith(f"MKL_CBWR={_CBWR}") and began != processor()
    assert "kind of processor" not in (run / "log.txt").read_text()

    told = run_command("resume", run, "--candidates", 4).stderr
    for text in (told, (run / "log.txt").read_text()):
        assert text.count("The run began on another kind of processor") == 1
    assert f"({began}; now {processor()})" in (run / "log.txt").read_text()

    run_command("search", file, "--run", same, "--candidates", 3)
    run_command("search", file, "--run", same, "--candidates", 4, "--resume")
    assert "kind of processor" not in (same / "log.txt").read_text()
