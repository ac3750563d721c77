"""List the figures of the pages whose command was not run since the code that it uses changed.

`python -m scripts.figures [PAGE]` reads `docs/figures.yaml`, where a row notes the commit at
which a command was last run. Whoever runs a command again writes the new figures and the commit.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RECORD = "docs/figures.yaml"

PROGRAM = re.compile(r"python (?:benchmarks/\w+\.py|-m scripts\.real(?:\.\w+)?)")
"""Begins a command whose figures a page has."""


def one_line(text: str) -> str:
    """Return a page or a command in one line, without the ends of lines of a shell."""
    return " ".join(text.replace("\\\n", " ").split())


def rows(root: Path = ROOT) -> list[Mapping[str, Any]]:
    """Return the rows of the record."""
    return list(yaml.safe_load((root / RECORD).read_text(encoding="utf-8")))


def unrecorded(page: str, text: str, record: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the programs that a page names and no row of it does."""
    commands = [row["command"] for row in record if row["page"] == page]
    programs = dict.fromkeys(PROGRAM.findall(one_line(text)))
    return [program for program in programs if not any(c.startswith(program) for c in commands)]


def changes(row: Mapping[str, Any], root: Path = ROOT) -> list[str]:
    """Return the commits since a command was run that changed what it uses, the latest first.

    CalledProcessError: the repository does not have the commit of the row.
    """
    words = ["git", "log", "--format=%h %s", f"{row['commit']}..HEAD", "--", *row["uses"]]
    return subprocess.run(
        words, cwd=root, check=True, capture_output=True, text=True
    ).stdout.splitlines()


def old(record: Sequence[Mapping[str, Any]], root: Path = ROOT) -> Iterator[str]:
    """Yield a line for each command that was not run since the code that it uses changed."""
    for row in record:
        where = f"{row['page']}: {row['command']}"
        if row["commit"] is None:
            yield f"{where}: never run"
        elif commits := changes(row, root):
            yield f"{where}: {len(commits)} commits since {row['commit']}, the last {commits[0]}"


if __name__ == "__main__":
    for line in old([row for row in rows() if sys.argv[1:] in ([], [row["page"]])]):
        print(line)
