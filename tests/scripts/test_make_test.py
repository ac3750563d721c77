"""`make test` holds in the background of a shell, and ends if a test does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
HANGING = """
import ctypes

import pytest


@pytest.mark.parametrize("number", range(6))
def test_one(number):
    if number == 5:
        ctypes.PyDLL(None).sleep(1000)  # keeps Python's lock
"""


def run_tests(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    command = ["sh", "-c", f'{before}exec "$@"', "sh", sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_tests_of_signals_hold_where_a_shell_lets_sigint_be_ignored() -> None:
    done = run_tests("tests/optimize/test_cma.py", "-k", "signal", before="trap '' INT; ")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_a_test_that_hangs_is_named_and_the_others_are_run(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    found = re.search(r"^WORKERS := -n auto (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    done = run_tests(
        *("-n", "2", *found[1].split(), "-c", str(ROOT / "pyproject.toml")),
        *("-p", "no:cacheprovider", "-o", "faulthandler_timeout=4", str(tmp_path)),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"crashed while running '.*test_hanging\.py::test_one\[5\]'", done.stdout)
    assert "1 failed, 6 passed" in done.stdout
    assert 'test_hanging.py", line 10 in test_one' in done.stderr
