"""The checks of a recipe's inputs for a method (numbers, ranges, names), and lookup by name."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from evomerge import registry
from evomerge.errors import RecipeError
from evomerge.merging.methods import get_method, method_names


def test_listing_methods_imports_no_torch():
    code = (
        "import sys; from evomerge.merging.methods import get_method, method_names; "
        "[get_method(name) for name in method_names()]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_another_package_can_add_a_method(monkeypatch):
    added = [
        EntryPoint("mine", "evomerge.merging.methods.linear:linear", "evomerge.methods"),
        EntryPoint("linear", "evomerge.merging.methods.linear:passthrough", "evomerge.methods"),
        EntryPoint("broken", "no_such_module:METHOD", "evomerge.methods"),
    ]
    monkeypatch.setattr(
        registry, "_entry_points", lambda group: [x for x in added if x.group == group]
    )
    assert method_names()[-2:] == ("broken", "mine")
    assert get_method("mine").name == "linear"
    assert get_method("linear").name == "linear"  # what evomerge brings is not replaced
    with pytest.raises(RecipeError, match="'broken' of the entry point 'no_such_module:METHOD'"):
        get_method("broken")
