"""Every benchmark that a page names runs in its quick form and ends with its figures."""

import json
import os
import re
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from search_run import evomerge

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = {
    name for page in PAGES for name in re.findall(r"benchmarks/(\w+)\.py", page.read_text("utf-8"))
}
MINUTES = 12


def test_the_pages_name_benchmarks_that_exist() -> None:
    there = {file.stem for file in (ROOT / "benchmarks").glob("*.py")}
    assert len(NAMED) > 12 and there >= NAMED


def test_no_benchmark_hides_an_installed_package() -> None:
    """Python looks first beside the script: `coverage.py` there ended the import of numba."""
    elsewhere = [path for path in sys.path if Path(path) != ROOT / "benchmarks"]
    for file in (ROOT / "benchmarks").iterdir():
        found = PathFinder.find_spec(file.stem, elsewhere)
        assert found is None or found.origin is None, file


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(NAMED))
def test_it_ends_with_a_json_object(name: str, tmp_path: Path) -> None:
    arguments = ["--quick"]
    if name == "fronts":  # reads runs
        file, run = ROOT / "configs" / "quality-and-depth.yaml", tmp_path / "front"
        evomerge("search", file, "--run", run, "--candidates", "8")
        arguments = ["--box", "0:1,12:0", str(run)]
    if name == "soak":  # keeps files
        arguments += ["--out", str(tmp_path / name)]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60 * MINUTES,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(figures, dict) and figures
