"""What documents show: equal scores are doubted, and the page has every answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from run_folders import write_run

from evomerge.report.documents import INVALID, doubt_about_baselines, doubt_about_winner
from evomerge.report.page import page
from evomerge.run.history import History, outcome_fields
from evomerge.scores import Example, Scores

OBJECTIVES = [{"task": "t", "metric": "acc"}]


def history(values: list[float], parsed: str = "5") -> History:
    """Return a run with two baselines and further candidates of these fitness values."""
    return History(events(values, parsed))


def events(values: list[float], parsed: str = "5") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number, value in enumerate(values):
        label = {"label": "ab"[number]} if number < 2 else {}
        found.append({"event": "ask", "candidate": number, "digest": str(number), **label})
        shown = Example("t", 7, "1 + <4>?", "it is 5", parsed, "5 < 6", {"acc": value})
        scores = Scores({"t": (7,)}, {"t/acc": (value,)}, {"t/acc": value}, examples=(shown,))
        tell = {"event": "tell", "candidate": number, "values": [value]}
        found.append(tell | outcome_fields(scores))
    return found


def test_equal_baselines_are_doubted_with_what_they_answered() -> None:
    doubt = doubt_about_baselines(history([0.0, 0.0]))
    assert doubt is not None
    message, examples = doubt
    assert "same fitness, so" in message
    assert [item.answer for item in examples] == ["it is 5"]
    assert doubt_about_baselines(history([0.0, 0.25])) is None
    assert doubt_about_baselines(history([0.25])) is None


def test_answers_that_no_filter_can_parse_are_doubted_whatever_the_scores() -> None:
    doubt = doubt_about_baselines(history([0.0, 0.25], INVALID))
    assert doubt is not None
    assert "cannot parse" in doubt[0]


def test_a_winner_among_equals_is_doubted() -> None:
    assert "no better" in (doubt_about_winner(history([0.5, 0.5, 0.5])) or "")
    assert doubt_about_winner(history([0.5, 0.5, 0.75])) is None


def test_the_report_shows_each_document_once_with_all_answers(tmp_path: Path) -> None:
    text = page(write_run(tmp_path / "run", events([0.0, 0.5, 0.75]), objectives=OBJECTIVES))
    assert text.count("1 + &lt;4&gt;?") == 1
    assert text.count("<pre>it is 5</pre>") == 3
    assert text.count('<table class="examples">') == 1
    assert "<td>searched<br>" in text and "acc 0.75" in text
    assert "Examples" not in page(write_run(tmp_path / "empty", []))
