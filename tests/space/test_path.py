"""Paths as text."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from spaces import parse_path

from evomerge.space.paths import Hop, format_path, layers_of, legend_of, path_of

LEGEND = {"A": "zoo:language", "B": "./other model"}
scales = st.just(1.0) | st.floats(-2, 2).filter(lambda x: abs(x) > 1e-3)
hops = st.builds(Hop, st.sampled_from(list(LEGEND.values())), st.integers(0, 40), scales)
paths = st.lists(hops, max_size=12).map(tuple)


@given(paths)
def test_the_path_of_a_recipe_made_from_a_path_is_that_path(path: tuple[Hop, ...]) -> None:
    assert path_of(layers_of(path)) == path


def test_consecutive_blocks_are_written_as_one_run() -> None:
    path = (
        *(Hop(LEGEND["A"], layer) for layer in range(12)),
        *(Hop(LEGEND["B"], layer, 0.9 if layer == 8 else 1.0) for layer in range(8, 16)),
        *(Hop(LEGEND["A"], layer) for layer in range(12, 32)),
    )
    assert format_path(path, LEGEND) == "A0-11 B8-15x0.9 A12-31"
    path = (Hop(LEGEND["A"], 3), Hop(LEGEND["A"], 3), Hop(LEGEND["A"], 4, -0.51234))
    assert format_path(path, LEGEND) == "A3 A3 A4x-0.512"


@given(paths)
def test_the_text_of_a_path_can_be_parsed_back(path: tuple[Hop, ...]) -> None:
    shown = tuple(replace(hop, scale=float(f"{hop.scale:.3g}")) for hop in path)
    assert parse_path(format_path(shown, LEGEND), LEGEND) == shown


def test_letters_continue_after_z_with_aa() -> None:
    legend = legend_of(f"p{i}" for i in range(30))
    assert list(legend)[25:28] == ["Z", "AA", "AB"]
    assert legend_of(["x", "y", "x"]) == {"A": "x", "B": "y"}
