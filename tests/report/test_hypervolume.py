"""The hypervolume of fronts, in numbers, in the table of runs, and the picture of a front."""

import numpy as np
import pytest
from search_run import searched, write_search

import evomerge
from evomerge.errors import InputError
from evomerge.report.view import run_rows, runs_in_words

KEYS = ("zoo_l2_maths/exact_match", "model/layers")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("front")
    file = write_search(
        folder,
        mode="pareto",
        space={"kind": "dataflow", "variant": "structured", "repeats": 1},
        objectives=[{"task": "zoo_l2_maths", "metric": "exact_match"}, {"metric": "layers"}],
        optimizer={"name": "nsga2"},
        budget={"candidates": 20},
    )
    return searched(file, folder / "run")


def area(points):
    """The area that points in the unit square dominate, by a sweep from the right."""
    total, top = 0.0, 0.0
    for x, y in sorted(points, reverse=True):
        total, top = total + x * max(0.0, y - top), max(top, y)
    return total


def test_the_hypervolume_is_the_area_that_the_front_dominates(run):
    box = {KEYS[0]: (0.0, 1.0), KEYS[1]: (20, 0)}
    rows = [one.scores("test").aggregates for one in run.front]
    points = [(row[KEYS[0]], np.clip(1 - row[KEYS[1]] / 20, 0, 1)) for row in rows]
    assert run.hypervolume(box) == pytest.approx(area(points))
    far = {KEYS[0]: (0.99, 1.0), KEYS[1]: (0.2, 0.1)}  # no score is in it
    assert run.hypervolume(far) == 0.0
    assert 0 < run.hypervolume() <= 1


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ({"layers": (9, 0)}, "box has layers; it must"),
        ({KEYS[0]: (0, 1)}, "a pair for each objective"),
        ({KEYS[0]: (1, 0), KEYS[1]: (9, 0)}, "more is better; give .worst, best., with best above"),
        ({KEYS[0]: (0, 1), KEYS[1]: (0, 9)}, "more is worse; give .worst, best., with best below"),
        ({KEYS[0]: (0, 0), KEYS[1]: (9, 0)}, "more is better"),
    ],
)
def test_a_wrong_box_is_refused(run, box, says):
    with pytest.raises(InputError, match=says):
        run.hypervolume(box)


def test_the_table_of_runs_has_fronts_in_place_of_a_score(run):
    row = evomerge.results([run]).iloc[0]
    assert row["front"] == len(run.front)
    assert row["hypervolume"] == pytest.approx(run.hypervolume())
    heads, lines = runs_in_words(run_rows([run.folder]))
    assert {"front", "hypervolume"} <= {*heads} and "best parent" not in heads
    assert lines[0][heads.index("hypervolume")].endswith("% on test")


@pytest.mark.parametrize("labels", [None, "knee", "front", "all"])
def test_the_picture_has_the_front_as_a_line_and_numbers_as_asked(run, labels):
    (axes,) = evomerge.plot_front(run, labels, "search").axes
    searched_ones = [one for one in run.history.candidates if one.scores("search")]
    names = {None: [], "knee": [run.winner], "front": run.front, "all": searched_ones}[labels]
    texts = [text.get_text().partition(" +") for text in axes.texts]
    assert {int(number) for number, _, _ in texts} <= {one.number for one in names}
    assert sum(1 + int(more or 0) for _, _, more in texts) == len(names)
    line = max(axes.lines, key=lambda one: one.get_linestyle() == "-" and len(one.get_xdata()))
    assert len(line.get_xdata()) == len(run.front)
    for wrong in ({"labels": "best"}, {"split": "validation"}):
        with pytest.raises(InputError, match="give '"):
            evomerge.plot_front(run, **wrong)


def test_a_search_for_one_fitness_has_no_hypervolume(tmp_path):
    run = searched(write_search(tmp_path, budget={"candidates": 4}), tmp_path / "run")
    with pytest.raises(InputError, match="has no front"):
        run.hypervolume()
    assert "front" not in evomerge.results([run])
