"""The genes of a path by depth and parent; and every picture of a run is in its report."""

from __future__ import annotations

import pytest
from run_folders import asked, scores, told, write_run
from search_run import SMALL

from evomerge.report.page import page
from evomerge.report.recipe_picture import gene_map, genes_picture
from evomerge.report.view import View

NAMES = ["in.a[1]", "in.b/c[0]", "scale.a[1]", "scale.a[1]#2", "scale.b/c[0]"]
GENOME = [1.0, 0.0, 1.25, 0.75, 1.5]


def grids(figure):
    """Return the title, the rows and the values of each heat map; gaps are None."""
    return [
        (
            axes.get_title(loc="left"),
            [label.get_text() for label in axes.get_yticklabels()],
            axes.images[0].get_array().tolist(),
        )
        for axes in figure.axes
        if axes.images
    ]


def test_layers_are_columns_and_scales_without_effect_are_left_out():
    assert grids(gene_map(NAMES, GENOME)) == [
        ("in", ["a", "b/c"], [[None, 1.0], [0.0, None]]),
        ("scale", ["a", "a#2"], [[None, 1.25], [None, 0.75]]),
    ]


def test_places_in_the_path_are_columns():
    names = ["block0", "block1", "scale.block1", "slices", "slice0.first", "slice1.first"]
    assert grids(gene_map(names, [0.0, 1.0, 1.25, 2.0, 3.0, 4.0])) == [
        ("block", ["block"], [[0.0, 1.0]]),
        ("scale", ["block"], [[None, 1.25]]),
        ("first", ["slice"], [[3.0, 4.0]]),
    ]


def test_other_genes_have_their_names():
    names = ["in.a[0]", "scale.network.0.1"]
    assert gene_map(names, [1.0, 0.5]) is None
    figure = genes_picture(names, [1.0, 0.5], "dataflow")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    assert genes_picture([], [], "dataflow") is None


@pytest.mark.parametrize("kind", ["dataflow", "parameters"])
def test_a_report_shows_every_picture_once(tmp_path, kind):
    ranges = [{"genes": NAMES, "kind": "real", "low": 0.0, "high": 2.0}]
    frozen = {"genes": NAMES, "gene_ranges": ranges}
    events = [asked(0, "a"), told(0, scores(2))]
    for number in range(1, 13):
        genome = [value * number / 12 for value in GENOME]
        events += [asked(number, genome=genome), told(number, scores(number))]
    space = {"kind": "dataflow"} if kind == "dataflow" else SMALL["space"]
    run = write_run(tmp_path / "run", events, space=space, frozen=frozen)
    figures = View.of(run).figures
    assert set(figures) == {"standings", "genes", "course", "importance"}
    assert bool(figures["genes"].axes[0].images) == (kind == "dataflow")
    assert page(run).count("<svg ") == len(figures)
