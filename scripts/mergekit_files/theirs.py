"""Builds mergekit files with mergekit, in an environment that has it.

    PYTHON theirs.py DIR ...

Builds `DIR/file.yaml` into `DIR/mergekit`. What mergekit says is in `DIR/mergekit.txt`, and an
error is its last line. Prints a line for each folder when it is done: 0, or 1 after an error.
"""

import contextlib
import sys
import traceback
from pathlib import Path

import yaml
from mergekit.scripts import multimerge, run_yaml


def build(place: Path) -> None:
    file, out = str(place / "file.yaml"), str(place / "mergekit")
    adapters = ["--lora-merge-cache", str(place / "adapters"), "--lora-merge-dtype", "float32"]
    if len(list(yaml.safe_load_all((place / "file.yaml").read_text(encoding="utf-8")))) == 1:
        run_yaml.main([file, out, *adapters], standalone_mode=False)
    else:
        parts = ["--out-path", out, "--intermediate-dir", str(place / "parts")]
        multimerge.main([file, *parts, *adapters], standalone_mode=False)


for folder in map(Path, sys.argv[1:]):
    failed = False
    with (
        (folder / "mergekit.txt").open("w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            build(folder)
        except Exception:
            traceback.print_exc()
            failed = True
    print(int(failed), flush=True)
