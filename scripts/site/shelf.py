"""The pages of the search files and job scripts that the repository has ready to use."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from scripts.site.places import PAGES, ROOT, with_links_in_site

_STARTS = {
    "configs": """# Ready-made search files

The search files in the folder `configs/`. Each starts with what it does, the command that runs it
and what it costs.
""",
    "examples": """# Examples

Search files and scripts in the folder `examples/`: for one GPU, for a machine with eight, for many
machines, and for two searches one after the other. Replace the names of models and tasks by yours.
""",
}
"""Folder -> how its page starts if the folder has no `README.md`."""

_LANGUAGES = {"": "yaml", ".py": "python", ".sbatch": "bash", ".sh": "bash", ".yaml": "yaml"}
"""Suffix of a file -> its language; lm-eval's files that others include have no suffix."""


def shelf(folder: str) -> str:
    """Return the page of a folder: its `README.md` or a table of its files, then each file."""
    place = ROOT / folder
    readme = place / "README.md"
    files = [item for item in sorted(place.iterdir()) if item.is_file() and item != readme]
    if readme.is_file():
        text = readme.read_text(encoding="utf-8").rstrip()
        start = [with_links_in_site(text, f"{folder}/README.md", PAGES[folder]), ""]
    else:
        rows = (f"| [`{item.name}`](#{item.name}) | {about(item)} |" for item in files)
        start = [_STARTS[folder], "| file | what it is |", "| --- | --- |", *rows, ""]
    return "\n".join([*start, *_sections(files, place, "##"), *_folders(place)])


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


def _folders(place: Path) -> Iterable[str]:
    """Yield the sections of folders inside of a folder, with those of their files."""
    for folder in sorted(item for item in place.iterdir() if item.is_dir()):
        files = [item for item in sorted(folder.rglob("*")) if _is_shown(item)]
        if files:
            yield f"## {folder.name}/ {{ #{folder.name} }}\n"
            yield from _sections(files, place, "###")


def _is_shown(file: Path) -> bool:
    return file.is_file() and file.suffix in _LANGUAGES


def _sections(files: Iterable[Path], place: Path, level: str) -> Iterable[str]:
    for file in files:
        name = file.relative_to(place).as_posix()
        text = file.read_text(encoding="utf-8").rstrip()
        language = _LANGUAGES.get(file.suffix, "text")
        yield f"{level} {name} {{ #{name} }}\n\n```{language}\n{text}\n```\n"
