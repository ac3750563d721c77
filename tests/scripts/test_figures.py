"""The record of the commands behind the figures fits the pages, and says which are old."""

import pytest
from pages import PAGES

from scripts.figures import ROOT, one_line, rows, unrecorded

RECORD = rows()


@pytest.mark.parametrize("row", RECORD, ids=lambda row: f"{row['page']}: {row['command'][:60]}")
def test_a_recorded_command_is_on_its_page_and_what_it_uses_exists(row):
    assert sorted(row) == ["command", "commit", "page", "uses"]
    assert row["command"] in one_line(PAGES[row["page"]])
    assert [name for name in row["uses"] if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CONTRIBUTING.md"])
def test_every_program_that_a_page_measures_with_is_recorded(page):
    assert unrecorded(page, PAGES[page], RECORD) == []
