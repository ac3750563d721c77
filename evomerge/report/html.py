"""Pages of one file: templates beside this file, whose texts are escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evomerge.errors import not_written, without_controls
from evomerge.report.figures import PALETTE
from evomerge.run.atomic import replace_text


def render(template: str, **values: Any) -> str:
    """Return a page: a template `TEMPLATE.html.jinja`, filled with values."""
    return _templates().get_template(f"{template}.html.jinja").render(palette=PALETTE, **values)


def write_html(content: str, target: Path, option: str) -> None:
    """Write a page to a file, which appears complete or not at all.

    InputError: it cannot be written; `option` named the file.
    """
    try:
        replace_text(target, content)
    except OSError as error:
        raise not_written(f"{option} {target}", error, "give another file") from error


@cache
def _templates() -> Environment:
    """Return the templates: texts of a run are escaped, and lose control characters."""

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
