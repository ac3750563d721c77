"""The Python code of the README runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from search_run import environment

ROOT = Path(__file__).parents[2]


def test_the_readme_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "candidates=40" in code
    quick = code.replace("candidates=40", "candidates=6")  # the rest of a search is more of this
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    done = subprocess.run(
        [sys.executable, "-c", quick],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "searched" in done.stdout and "layers[0:1].zoo:maths.weight" in done.stdout
    assert (tmp_path / "history.svg").stat().st_size > 1000
    assert (tmp_path / "my-merge" / "config.json").is_file()
