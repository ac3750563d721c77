"""Whatever is no path gives one sentence that names the argument, and no `TypeError` of pathlib."""

from pathlib import Path

import pytest
from run_folders import write_run

import evomerge
from evomerge.errors import InputError


def test_a_search_file_from_python_may_have_paths(tmp_path):
    config = {
        "parents": [Path("zoo:maths"), "zoo:facts"],
        "base": "zoo:base",
        "objectives": [{"encoder": "sts", "file": tmp_path / "gone.jsonl"}],
    }
    with pytest.raises(InputError, match=rf"there is no file '{tmp_path}/gone\.jsonl'"):
        evomerge.validate(config)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (evomerge.Run, "folder"),
        (evomerge.resume, "run"),
        (lambda it: evomerge.search(it, "run"), "config"),
        (lambda it: evomerge.Study({}, run=it), "run"),
        (lambda it: evomerge.merge(it, "out"), "recipe"),
        (lambda it: evomerge.evaluate("model", it), "config"),
        (evomerge.compare, "parents"),
        (lambda it: evomerge.results([it]), "runs"),
        (lambda it: evomerge.Run(write_run(Path("run"), []).path).export(it), "out"),
    ],
)
def test_what_is_no_path_is_named(call, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    others = ", or a mapping" if name == "config" else ""
    with pytest.raises(InputError, match=rf"^{name} is 3; give .*{others}\.$"):
        call(3)
