"""The report: well-formed HTML with every table, figure and candidate, written in one step."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from run_folders import FAILED, STATES, asked, finished, scores, told, write_run

from evomerge.cli.live import doubt_about_baselines
from evomerge.report.page import page
from evomerge.run.history import History
from evomerge.scores import Example, Expected, Scores

VOID = {"meta", "br", "link"}
GENES = ["weight of <a>", "weight of b"]
NASTY = "<script>alert(1)</script> & $x^{$ | co"


class Page(HTMLParser):
    """The tags, tables and text of a page; fails on elements not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.tables, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data


@pytest.fixture
def run(tmp_path):
    """A run with a winner, a failure and an estimate; one parent's name has special characters."""
    few = scores(5, 8)
    estimate = replace(few, expected={key: Expected(0.3, 0.1) for key in few.values})
    models = [(NASTY, scores(6)), ("uniform", scores(3)), (None, FAILED), (None, scores(21))]
    ranges = [{"genes": GENES, "kind": "real", "low": 0.0, "high": 2.0}]
    frozen, finals = {"genes": GENES, "gene_ranges": ranges}, {0: 5, 1: 3, 3: 20}
    more = {"winner": 3, "splits": ("validation", "test"), "frozen": frozen}
    return finished(tmp_path / "a <run> & $", [*models, (None, estimate)], finals, **more)


def test_every_table_and_picture_is_there_and_names_are_text(run):
    parsed = Page(page(run))
    by_head = {tuple(rows[0]): rows for rows in parsed.tables}
    standings = by_head["model", "test", "validation", "search"]
    assert [row[0] for row in standings[1:]] == [NASTY, "uniform", "searched"]
    assert standings[3][1:] == ["83.3 [64.1, 93.3]", "83.3 [64.1, 93.3]", "87.5 [69.0, 95.7]"]
    compared = by_head["searched merge against", "difference on test documents"]
    assert compared[1][0] == NASTY and compared[1][1].startswith("+62.5 points [")
    assert by_head["candidates", "failed in", "reason"][1] == ["1", "merge", "no <finite> weights"]
    header, *rows = parsed.tables[-1]
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "4"]
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    assert [cell["status"] for cell in cells] == ["scored"] * 2 + ["failed"] + ["scored"] * 2
    assert [cell["winner"] for cell in cells] == ["", "", "", "True", ""]
    assert cells[2]["failure"] == "merge: no <finite> weights"
    assert cells[4]["error in %"] == "10"
    assert cells[3]["test zoo_l2_maths/exact_match in %"] == "83.33"
    assert parsed.tags.count("svg") == 2  # standings, the course
    assert parsed.tags.count("figure") == parsed.tags.count("figcaption") == 2
    assert "script" not in parsed.tags
    assert "Yes: on the test documents the searched merge is better than each" in parsed.text
    assert "1 candidates were scored on some of the search documents." in parsed.text
    assert "a <run> & $" in parsed.text
    assert "exact_match" in parsed.text.split("search file")[-1]
    assert "nan" not in parsed.text


def examples(values, parsed="5"):
    """Return the events of two baselines and further candidates, each with an answer."""
    events = []
    for number, value in enumerate(values):
        shown = Example("t", 7, "1 + <4>?", "it is 5", parsed, "5 < 6", {"acc": value})
        found = Scores({"t": (7,)}, {"t/acc": (value,)}, {"t/acc": value}, examples=(shown,))
        events += [asked(number, "ab"[number] if number < 2 else None), told(number, found)]
    return events


def test_the_report_shows_each_document_once_with_all_answers(tmp_path):
    """A table of four columns had one word a line on a phone."""
    objectives = [{"task": "t", "metric": "acc"}]
    text = page(write_run(tmp_path / "run", examples([0.0, 0.5, 0.75]), objectives=objectives))
    (table,) = (item for item in Page(text).tables if item[0] == ["model", "answer"])
    assert [row[0] for row in table[1:]] == ["aacc 0", "bacc 0.5", "searchedacc 0.75"]
    assert [row[1] for row in table[1:]] == ["it is 5parsed5"] * 3
    assert text.count("1 + &lt;4&gt;?") == 1


def test_equal_baselines_and_answers_that_no_filter_can_parse_are_doubted():
    def doubt(*values, parsed="5"):
        return doubt_about_baselines(History(examples(values, parsed)))

    message, lines = doubt(0.0, 0.0)
    assert "same fitness, so" in message and "  answer: 'it is 5'" in lines
    assert doubt(0.0, 0.25) is None and doubt(0.25) is None
    assert "cannot parse" in doubt(0.0, 0.25, parsed="[invalid]")[0]


@pytest.mark.parametrize("state", STATES)
def test_runs_without_a_winner_have_a_page_too(tmp_path, state):
    events, torn = STATES[state]
    parsed = Page(page(write_run(tmp_path / "run", events, torn)))
    asks = sum(event["event"] == "ask" for event in events)
    assert f"{asks} candidates" in parsed.text
    assert len(parsed.tables[-1]) == asks + 1
    assert parsed.tags.count("svg") >= 1


def test_documents_that_a_parent_gets_right_and_the_winner_wrong_are_listed(tmp_path):
    key = "zoo_l2_maths/exact_match"

    def of_test(*values):
        ids = {"zoo_l2_maths": tuple(range(7, 7 + len(values)))}
        example = Example("zoo_l2_maths", 8, "two <and> two", "5", "5", "4", {})
        mean = sum(values) / len(values)
        return Scores(ids, {key: values}, {key: mean}, examples=(example,))

    models = [("parent", scores(6)), ("uniform", scores(3)), (None, scores(21))]
    finals = {0: of_test(0, 1, 1, 0), 1: of_test(1, 1, 1, 1), 2: of_test(1, 0, 0, 1)}
    run = finished(tmp_path / "run", models, finals, winner=2)
    parsed = Page(page(run))
    assert "On 2 of 4 test documents a parent scores better in" in parsed.text
    (table,) = (rows for rows in parsed.tables if rows[0][0] == "document")
    assert table[0] == ["document", "searched", "parent", "prompt"]
    assert table[1:] == [["8", "0", "1", "two <and> two"], ["9", "0", "1", ""]]
    finals[2] = of_test(1, 1, 1, 0)
    assert "still get wrong" not in page(finished(tmp_path / "no", models, finals, winner=2))


def test_an_objective_function_is_called_by_its_short_name(tmp_path):
    def of_function(value):
        key = "my_scores:short/score"
        return Scores({"my_scores:short": (0, 1)}, {key: (value, value + 1)}, {key: value + 0.5})

    objectives = [{"task": "my_scores:short", "metric": "score"}]
    models = [("parent", of_function(1.0)), (None, of_function(3.0))]
    run = finished(tmp_path / "run", models, objectives=objectives)
    parsed = Page(page(run))
    assert "short/score" in parsed.text.split("How did it go?")[0]
    assert "my_scores" not in parsed.text.split("How did it go?")[0].split("search over")[1]
