"""What `benchmarks/soak.py` compares: it notices lost lines, other files and other scores."""

from pathlib import Path

import pytest
import soak
from run_folders import STATES, asked, scores, told, write_run

pytestmark = pytest.mark.thorough

EVENTS = [asked(0, "zoo:language"), told(0, scores(3)), asked(1, genome=[0.5, 1.0])]


def test_only_a_torn_line_of_a_journal_may_go(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", EVENTS, torn=STATES["being written"][1])
    whole = soak._whole_lines(run.path)
    assert whole.count(b"\n") == 4 and run.journal_path.read_bytes() != whole
    run.journal_path.write_bytes(whole[:-1])
    assert not soak._whole_lines(run.path).startswith(whole)


def test_only_the_order_of_outcomes_may_differ_with_several_workers(tmp_path: Path) -> None:
    def written(name: str, *right: int) -> Path:
        events = [asked(0, "a"), asked(1, "b"), *(told(i, scores(i + 3)) for i in right)]
        return write_run(tmp_path / name, events).path

    one, two = written("one", 0, 1), written("two", 1, 0)
    same, ordered = soak.Search({}), soak.Search({}, "sorted")
    assert soak._differs(same, one, one) is None
    assert "journal.jsonl" in soak._differs(same, one, two)
    assert soak._differs(ordered, one, two) is None
    assert "journal.jsonl" in soak._differs(ordered, one, written("fewer", 0))
    (two / "best.yaml").write_text("host: a")
    assert "best.yaml" in soak._differs(ordered, one, two)
