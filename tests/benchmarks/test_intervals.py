"""Intervals cover as often as `docs/intervals.md` says."""

from __future__ import annotations

import importlib
import json
import sys

import pytest

pytestmark = pytest.mark.thorough


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a benchmark and return the figures of its last line."""

    def run(name: str, *options: str) -> dict[str, float]:
        monkeypatch.setattr(sys, "argv", [name, *options])
        importlib.import_module(name).main()
        found: dict[str, float] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    return run


def test_the_quick_forms_run(measured):
    covered = measured("intervals", "--quick", "--runs", "40")
    assert len(covered) == 2 * 16 * 2 * 2 + 2
    known = {key: share for key, share in covered.items() if ", unknown, " not in key}
    assert all(share > 0.8 for key, share in known.items() if key.startswith("coverage"))


@pytest.mark.long
def test_intervals_cover(measured):
    found = measured("intervals", "--runs", "2000")
    for key, share in found.items():
        if key.startswith("false differences"):
            assert share < 0.066, key
        elif ", unknown, " in key:
            continue  # no interval can cover where nothing is known of rare huge values
        elif key.endswith(", 57 x 5"):
            assert share > 0.89, key
        elif ", 1 x " in key and "right or wrong" in key:
            # Wilson's interval, whose coverage jumps from one number of right answers to the next.
            assert share > 0.89, key
        else:
            assert share > 0.915, key
