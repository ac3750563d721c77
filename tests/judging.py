"""What the tests of objective functions share: a search scored by a module that they write."""

from pathlib import Path

from search_run import write_search

SPLITS = {
    "search": {"documents": 4},
    "validation": {"documents": 4, "finalists": 2},
    "test": {"documents": 4},
}


def write_judged(folder: Path, source: str, **changes) -> Path:
    """Write `judging.py` and a search that has `judging:judge` as its only objective."""
    (folder / "judging.py").write_text(source)
    given = {
        "objectives": [{"task": "judging:judge", "metric": "score"}],
        "evaluation": SPLITS,
        "budget": {"candidates": 12},
    }
    return write_search(folder, **(given | changes))


def rows_of(run: Path) -> list[bytes]:
    """Return the journal's lines."""
    return (run / "journal.jsonl").read_bytes().splitlines()
