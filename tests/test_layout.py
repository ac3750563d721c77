"""The package's own folder shows its architecture at a glance."""

from pathlib import Path

import evomerge


def test_the_top_of_the_package_has_few_entries():
    entries = {item.name for item in Path(evomerge.__file__).parent.iterdir()}
    assert len(entries - {"__pycache__"}) <= 27


def test_the_tests_mirror_the_package():
    def folders(path: Path) -> set[str]:
        return {item.parent.name for item in path.glob("*/*.py")}

    package = folders(Path(evomerge.__file__).parent)
    assert folders(Path(__file__).parent) == package | {
        "attacks",
        "scripts",
        "benchmarks",
        "docs",
        "laws",
        "shared",
    }  # of the repository, attacks on all of it, laws, and what tests of several rooms use
