"""For tests of objective functions: a search whose objective is in a module of the test."""

from pathlib import Path

from search_run import write_search

SPLITS = {
    "search": {"documents": 4},
    "validation": {"documents": 4, "finalists": 2},
    "test": {"documents": 4},
}


def write_judged(folder: Path, source: str, **changes) -> Path:
    """Write `judging.py` and a search file with `judging:judge` as the only objective."""
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
