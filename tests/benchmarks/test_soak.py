"""What `benchmarks/soak.py` compares: it notices lost lines, other files and other scores."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import STATES, asked, scores, told, write_run
from soaking import cuts, kills

pytestmark = pytest.mark.thorough

EVENTS = [asked(0, "zoo:language"), told(0, scores(3)), asked(1, genome=[0.5, 1.0])]


def test_a_journal_must_keep_every_complete_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", EVENTS, torn=STATES["being written"][1])
    before: dict[Path, bytes] = {}
    assert kills._continues(before, run.path) is None
    whole = before[run.journal_path]
    assert whole.count(b"\n") == 4  # the torn line may go
    run.journal_path.write_bytes(whole)
    assert kills._continues(before, run.path) is None
    run.journal_path.write_bytes(whole[:-1])
    assert "lost lines" in kills._continues(before, run.path)


def test_only_the_order_of_outcomes_may_differ_with_several_workers(tmp_path: Path) -> None:
    def written(name: str, *right: int) -> Path:
        events = [asked(0, "a"), asked(1, "b"), *(told(i, scores(i + 3)) for i in right)]
        return write_run(tmp_path / name, events).path

    one, two = written("one", 0, 1), written("two", 1, 0)
    same, ordered = kills.Search({}), kills.Search({}, "sorted")
    assert kills._differs(same, one, one) is None
    assert "journal.jsonl" in kills._differs(same, one, two)
    assert kills._differs(ordered, one, two) is None
    assert "journal.jsonl" in kills._differs(ordered, one, written("fewer", 0))
    (two / "best.yaml").write_text("host: a")
    assert "best.yaml" in kills._differs(ordered, one, two)


def test_a_journal_can_be_cut_at_any_byte(tmp_path: Path) -> None:
    journal = write_run(tmp_path / "run", EVENTS).journal_path.read_bytes()
    for place in range(len(journal)):
        assert cuts._opened(journal, place, tmp_path / "cut.jsonl") is None
    damaged = journal[:30] + b"x" + journal[31:]
    assert "damaged" in cuts._opened(damaged, len(damaged), tmp_path / "cut.jsonl")
