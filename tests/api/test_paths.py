"""Whatever is no path gives one sentence that names the argument, and no `TypeError` of pathlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_folders import write_run

import evomerge
from evomerge.errors import InputError


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (evomerge.Run, "folder"),
        (evomerge.resume, "run"),
        (lambda it: evomerge.search({}, it), "run"),
        (lambda it: evomerge.search(it, "run"), "config"),
        (lambda it: evomerge.Study({}, run=it), "run"),
        (lambda it: evomerge.merge(it, "out"), "recipe"),
        (lambda it: evomerge.merge("recipe", it), "out"),
        (lambda it: evomerge.evaluate("model", it), "config"),
        (evomerge.compare, "parents"),
        (lambda it: evomerge.results([it]), "runs"),
    ],
)
def test_what_is_no_path_is_named(call: Callable[[Any], object], name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name} is 3; give "):
        call(3)


def test_a_run_refuses_what_is_no_path(tmp_path: Path) -> None:
    run: Any = evomerge.Run(write_run(tmp_path / "run", []).path)
    for call in (run.export, run.report):
        with pytest.raises(InputError, match=r"^out is 3; give a path, as text or a `Path`\.$"):
            call(3)
