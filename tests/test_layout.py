"""Tests stand where what they test stands; rooms name only what is theirs."""

import re
from pathlib import Path

import evomerge

ROOT = Path(evomerge.__file__).parent


def test_the_tests_mirror_the_package():
    def folders(path: Path) -> set[str]:
        return {item.parent.name for item in path.glob("*/*.py")}

    package = folders(ROOT)
    others = {"attacks", "scripts", "benchmarks", "docs", "laws", "shared"}
    assert folders(Path(__file__).parent) == package | others


KINDS = re.compile(
    r"encoder|classif|sentence.transformers|modality|\bvision|\baudio|lm.eval|For[A-Z]\w+Cla|"
    r"For[A-Z]\w+LM\b|generate_until|likelihoods? of|\brewards?\b",
    re.IGNORECASE,
)
"""Kinds of models and of what they are scored on, which objectives and `models/` know."""


def test_what_begins_runs_and_reports_a_search_names_no_kind():
    rooms = [ROOT / name for name in ("problem", "execute", "run", "report")]
    files = [file for room in rooms for file in room.glob("*.py")]
    lines = [(file.name, line) for file in files for line in file.read_text().splitlines()]
    assert len(files) > 40 and not [it for it in lines if KINDS.search(it[1])]
