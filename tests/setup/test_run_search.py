"""What ends a search from within its process."""

from __future__ import annotations

import pytest
from search_run import SMALL

import evomerge
from evomerge.errors import SearchError
from evomerge.setup import search


def test_a_system_exit_of_an_optimizer_stops_the_search_with_a_sentence(tmp_path, monkeypatch):
    """Else the search would end with exit status 0 and no word."""

    def leave(checked):
        raise SystemExit(0)

    monkeypatch.setattr(search, "make_strategy", leave)
    with pytest.raises(SearchError, match=r"raised SystemExit: 0; remove the cause.*resume"):
        evomerge.search({**SMALL, "budget": {"candidates": 4}}, tmp_path / "run", progress=False)
