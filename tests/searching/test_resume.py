"""A search in another Python, with a raised budget, resumed at its end, and its estimates."""

import subprocess
import sys

import pytest
from search_run import command, environment, searched, write_search

pytestmark = pytest.mark.thorough

FILES = ("journal.jsonl", "best.yaml", "search.yaml")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run by a new Python, which has another order of sets of strings than the forked ones."""
    folder = tmp_path_factory.mktemp("unbroken")
    begun = command("search", write_search(folder), "--run", folder / "run")
    done = subprocess.run(begun, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_a_search_in_this_process_is_the_same(unbroken, tmp_path):
    searched(write_search(tmp_path), tmp_path / "run")
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (unbroken / name).read_bytes(), name


def test_resuming_a_finished_run_loads_neither_model_nor_tasks(unbroken):
    code = (
        "import sys; from evomerge.__main__ import run; "
        f"run(['resume', {str(unbroken)!r}]); "
        "sys.exit(' '.join({'lm_eval', 'nevergrad', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert "the winner is candidate" in done.stderr
