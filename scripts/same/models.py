"""Writes the models, rows and tasks that the searches of `searches.yaml` need."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make(folder: Path, shared: Path, architectures: list[str]) -> None:
    """Write all models; `shared` has the folder `oracle` with mergekit's parents."""
    sys.path.insert(0, str(ROOT / "tests" / "shared"))
    import small_models

    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "configs" / "adapters", folder / "adapters")
    shutil.copytree(shared / "oracle" / "parents", folder / "oracle")
    kinds = ["encoder", "texts", "answers", "t5", "bart", "llava", *architectures]
    names = [f"{kind}-{which}" for kind in kinds for which in ("one", "two")]
    for name in [*(f"chat-{name}" for name in ("base", "language", "maths")), *names]:
        small_models.make(folder, name)
    small_models.write_rows(folder / "rows")
    small_models.write_tasks(folder / "tasks")
    (folder / "judging.py").write_text(small_models.JUDGE)
