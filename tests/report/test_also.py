"""What a verdict says of measures besides the objectives."""

import pytest
from run_folders import finished
from search_run import SMALL

from evomerge.report.view import View
from evomerge.scores import Scores

ALSO = [{"task": "zoo_maths", "metric": "exact_match"}, {"texts": 64}]
KEY, NATS = "zoo_maths/exact_match", "base_texts/nll"


def final_scores(right, nats):
    """The test scores of a model: right answers of 40, and nats of 20 texts around a mean."""
    own = "zoo_l2_maths/exact_match"
    values = {
        own: (1.0,) * 24,
        KEY: (1.0,) * right + (0.0,) * (40 - right),
        NATS: tuple(nats + 0.01 * (i % 2) for i in range(20)),
    }
    ids = {"zoo_l2_maths": range(24), "zoo_maths": range(40), "base_texts": range(20)}
    means = {key: sum(column) / len(column) for key, column in values.items()}
    return Scores({task: tuple(numbers) for task, numbers in ids.items()}, values, means)


@pytest.fixture
def view_of(tmp_path):
    def made(right, nats):
        models = [("zoo:base", 5), ("zoo:maths", 6), ("uniform", 7), (None, 20)]
        finals = {0: final_scores(30, 1.0), 1: final_scores(38, 1.2), 2: final_scores(30, 1.0)}
        finals[3] = final_scores(right, nats)
        evaluation = SMALL["evaluation"] | {"also": ALSO}
        frozen = {"lower_is_better": [NATS]}
        run = finished(tmp_path / "run", models, finals, evaluation=evaluation, frozen=frozen)
        return View.of(run)

    return made


def test_a_verdict_says_what_was_lost_with_the_experts_beside(view_of):
    view = view_of(10, 1.7)
    accuracy, texts = view.kept
    assert list(accuracy.values) == ["searched", "zoo:maths", "zoo:base"]
    assert accuracy.changes["searched"].difference.value == pytest.approx(-0.5)
    assert texts.change("searched").startswith("+0.70")  # more nats are worse
    assert "nats a token" in texts.change("searched") and texts.changes["searched"].sign == -1
    text = view.verdict.text
    assert "Against the base it is worse on zoo_maths/exact_match (-50.0 points [" in text
    assert "; zoo:maths +20.0 points [" in text and "the base's own texts (+0.70" in text
    assert texts.table().rows[0][1][1][0].startswith("+0.70")


def test_a_verdict_says_that_nothing_was_lost_for_sure(view_of):
    text = view_of(30, 1.0).verdict.text
    assert "No loss against the base is beyond doubt on zoo_maths/exact_match and the" in text


def test_before_the_test_and_without_the_key_nothing_is_said(tmp_path):
    view = View.of(finished(tmp_path / "run", [("zoo:maths", 6), (None, 20)]))
    assert view.kept == [] and "gainst the base" not in view.verdict.text
