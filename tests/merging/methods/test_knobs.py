"""The checks of a recipe's inputs for a method (numbers, ranges, names), and lookup by name."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from evomerge import registry
from evomerge.errors import RecipeError
from evomerge.merging.methods import get_method, method_names
from evomerge.merging.methods.method import check_knobs


def test_all_methods_are_there_and_declare_themselves() -> None:
    names = method_names()
    assert len(names) == len(set(names)) >= 20
    for name in names:
        method = get_method(name)
        assert method.name == name and method.title and method.parents[0] >= 1
        assert len({knob.name for knob in method.knobs}) == len(method.knobs)
        for knob in method.knobs:
            assert knob.help and knob.low <= knob.high
            assert knob.default is None or knob.low <= knob.default <= knob.high
            if knob.search is not None:
                assert knob.low <= knob.search[0] < knob.search[1] <= knob.high


def test_listing_methods_imports_no_torch() -> None:
    code = (
        "import sys; from evomerge.merging.methods import get_method, method_names; "
        "[get_method(name) for name in method_names()]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_another_package_can_add_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_defaults_are_filled_in() -> None:
    sources, knobs = check_knobs(get_method("ties"), [{"weight": 2}, {}], {}, has_base=True)
    assert sources == [{"weight": 2.0, "density": 1.0}, {"weight": 1.0, "density": 1.0}]
    assert knobs == {"lambda": 1.0, "normalize": 1.0, "rescale": 0.0, "int8_mask": 0.0}
