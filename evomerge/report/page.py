"""The report of a run (`evomerge report`): one HTML page that needs no other files.

`page.html.jinja` is the page; what it shows is a `View`. Its pictures are SVG made with matplotlib:
a page has 0.1 to 0.5 MB, needs no script, and can be printed. Plotly would add 4.5 MB of script to
each page.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evomerge.errors import not_written, without_controls
from evomerge.report.figures import PALETTE, inline_svg, svg_text
from evomerge.report.view import View
from evomerge.run.atomic import replace_text
from evomerge.run.folder import RunFolder
from evomerge.run.writable import check_output


def write_page(run: RunFolder, target: Path) -> None:
    """Write the page of a run, as one step: a killed process leaves no partial page.

    Raises:
        InputError: the file cannot be written.
    """
    check_output(target, "--out")
    content = page(run)
    try:
        replace_text(target, content)
    except OSError as error:
        raise not_written(f"--out {target}", error, "give another file") from error


def page(run: RunFolder) -> str:
    """Return the page of a run as HTML."""
    view = View.of(run)

    def svg(name: str, caption: str) -> str:
        return inline_svg(name, view.figures[name], caption)

    template = _templates().get_template("page.html.jinja")
    return template.render(view=view, svg=svg, palette=PALETTE)


@cache
def _templates() -> Environment:
    """Return what reads templates: texts of a run are escaped, and lose control characters."""

    def shown(value: Any) -> Any:
        return value if hasattr(value, "__html__") else without_controls(str(value))

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def write_pictures(run: RunFolder, folder: Path) -> list[Path]:
    """Write the pictures of a run as SVG files into a folder, and return their paths.

    Raises:
        InputError: a file cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in View.of(run).figures.items():
            replace_text(folder / f"{name}.svg", svg_text(figure))
            written.append(folder / f"{name}.svg")
    except OSError as error:
        raise not_written(f"--pictures {folder}", error, "give another folder") from error
    return written
