"""The checks of a recipe's inputs for a method (numbers, ranges, names), and lookup by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
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


def test_mergekit_s_name_of_ramplus_is_understood() -> None:
    assert get_method("ramplus_tl") is get_method("ramplus")
    assert "ramplus_tl" not in method_names()


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


@pytest.mark.parametrize(
    ("name", "sources", "knobs", "has_base", "message"),
    [
        ("slerp", [{}] * 3, {"t": 0.5}, False, "slerp takes exactly 2 sources, .* got 3"),
        ("karcher", [{}], {}, False, "karcher takes 2 or more sources, .* got 1"),
        ("ties", [{}], {}, False, "ties needs a base model; set `base`"),
        ("ties", [{"densty": 1}], {}, True, "unknown knob 'densty' of source 1; allowed are .*"
         "Did you mean 'density'"),
        ("ties", [{}, {"density": 1.5}], {}, True, "'density' of source 2 is 1.5; it must be a "
         "number from 0 to 1"),
        ("ties", [{"density": float("nan")}], {}, True, "'density' of source 1 is nan"),
        ("ties", [{"lambda": 1}], {}, True, "'lambda' belongs to the merge as a whole"),
        ("ties", [{}], {"weight": 1}, True, "'weight' belongs to each source"),
        ("ties", [{}], {"normalize": 0.5}, True, "'normalize' of the merge is 0.5; it must be "
         "true or false"),
        ("karcher", [{}] * 2, {"max_iter": 2.5}, False, "'max_iter' .* must be a whole number"),
        ("slerp", [{}] * 2, {}, False, "'t' of the merge is missing; give a number from 0 to 1"),
        ("model_stock", [{"weight": 1}] * 2, {}, True, "unknown knob 'weight' .*; it has none"),
        ("task_arithmetic", [{"density": 0.5}], {}, True, "'density' of source 1 is 0.5"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(
    name: str,
    sources: Sequence[Mapping[str, float]],
    knobs: Mapping[str, float],
    has_base: bool,
    message: str,
) -> None:
    with pytest.raises(RecipeError, match=message):
        check_knobs(get_method(name), sources, knobs, has_base=has_base)


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"Unknown merge method 'teis'.*Did you mean 'ties'"):
        get_method("teis")


def test_defaults_are_filled_in() -> None:
    sources, knobs = check_knobs(get_method("ties"), [{"weight": 2}, {}], {}, has_base=True)
    assert sources == [{"weight": 2.0, "density": 1.0}, {"weight": 1.0, "density": 1.0}]
    assert knobs == {"lambda": 1.0, "normalize": 1.0, "rescale": 0.0, "int8_mask": 0.0}
