"""Tests stand where what they test stands."""

from pathlib import Path

import evomerge


def test_the_tests_mirror_the_package():
    def folders(path: Path) -> set[str]:
        return {item.parent.name for item in path.glob("*/*.py")}

    package = folders(Path(evomerge.__file__).parent)
    others = {"attacks", "scripts", "benchmarks", "docs", "laws", "shared"}
    assert folders(Path(__file__).parent) == package | others
