"""Paths as text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from paths import parse_path

from evomerge.space.paths.path import Hop, format_path, layers_of, legend_of, path_of

LEGEND = {"A": "zoo:language", "B": "./other model"}
scales = st.just(1.0) | st.floats(-2, 2).filter(lambda x: abs(x) > 1e-3).map(
    lambda x: float(f"{x:.3g}")  # as many digits as a path shows
)
hops = st.builds(Hop, st.sampled_from(list(LEGEND.values())), st.integers(0, 40), scales)
paths = st.lists(hops, max_size=12).map(tuple)


@given(paths)
def test_text_and_recipe_give_the_path_back(path: tuple[Hop, ...]) -> None:
    assert parse_path(format_path(path, LEGEND), LEGEND) == path
    assert path_of(layers_of(path)) == path


def test_a_path_reads_as_runs() -> None:
    text = "A0-11 B8-15x0.9 A12-31"
    path = parse_path(text, LEGEND)
    assert len(path) == 12 + 8 + 20
    assert [hop.scale for hop in path if hop.scale != 1.0] == [0.9]
    assert format_path(path, LEGEND) == text


def test_repeated_and_scaled_blocks_stand_alone() -> None:
    path = (Hop(LEGEND["A"], 3), Hop(LEGEND["A"], 3), Hop(LEGEND["A"], 4, -0.51234))
    assert format_path(path, LEGEND) == "A3 A3 A4x-0.512"


def test_letters_go_on_after_z() -> None:
    legend = legend_of(f"p{i}" for i in range(30))
    assert list(legend)[25:28] == ["Z", "AA", "AB"]
    assert legend_of(["x", "y", "x"]) == {"A": "x", "B": "y"}
