"""The tests need the package installed, since evomerge finds it by its entry points."""

from importlib.metadata import entry_points

import pytest


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    if "cycleqd" not in entry_points(group="evomerge.strategies").names:
        pytest.fail("evomerge-research is not installed; run `pip install -e plugins/research`.")
