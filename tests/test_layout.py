"""The package's own folder shows its architecture at a glance."""

from pathlib import Path

import evomerge


def test_the_top_of_the_package_has_few_entries():
    entries = {item.name for item in Path(evomerge.__file__).parent.iterdir()}
    assert len(entries - {"__pycache__"}) <= 24
