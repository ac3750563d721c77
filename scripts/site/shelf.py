"""The pages of the search files and job scripts that the repository has ready to use."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.site.places import ROOT

_STARTS = {
    "configs": """# Ready-made search files

The search files in the folder `configs/`. Each starts with what it does, the command that runs it
and what it costs.
""",
    "examples": """# Examples for GPUs and clusters

Search files and job scripts in the folder `examples/`: for one GPU, for a machine with eight, and
for many machines. Replace the names of models and tasks by your own.
""",
}


def shelf(folder: str) -> str:
    """Return the page of a folder: a table of its files, then each file as it is."""
    files = sorted((ROOT / folder).iterdir())
    table = ["| file | what it is |", "| --- | --- |"]
    table += [f"| [`{file.name}`](#{file.name}) | {about(file)} |" for file in files]
    return "\n".join([_STARTS[folder], *table, "", *map(_section, files)])


def about(file: Path) -> str:
    """Return the first sentence of the comment that a file starts with, and its `Cost:`."""
    lines = file.read_text(encoding="utf-8").removeprefix("#!/bin/bash\n").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("# "):
            break
        comment.append(line.removeprefix("# "))
    text = "\n".join(comment)
    first = re.split(r"(?<=\.)\s|\n {2}", text, maxsplit=1)[0]
    cost = re.findall(r"^Cost: .*?\.?$", text, re.MULTILINE)
    return " ".join([*first.split(), *cost[:1]])


def _section(file: Path) -> str:
    language = "bash" if file.suffix == ".sbatch" else "yaml"
    text = file.read_text(encoding="utf-8").rstrip()
    return f"## {file.name} {{ #{file.name} }}\n\n```{language}\n{text}\n```\n"
