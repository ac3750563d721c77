"""HTML of tables, lists of terms and figures; every text from a file is escaped here."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evomerge.errors import without_controls
from evomerge.report.colours import VARIABLES


def text(value: object) -> str:
    """Return any value as text for HTML, between tags or in the quotes of an attribute."""
    return html.escape(without_controls(str(value)))


def paragraph(words: str, kind: str = "") -> str:
    """Return a paragraph of plain text; `kind` is its CSS class."""
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def table(
    headers: Sequence[str], rows: Iterable[Sequence[object]], marked: int | None = None
) -> str:
    """Return a table that scrolls sideways if it is too wide.

    A cell that is a pair of texts shows the second one small, below or beside the first.

    Args:
        headers: the texts of the first row.
        rows: the cells of the other rows.
        marked: index of a row that stands out.
    """
    lines = ["<tr>" + "".join(f"<th>{text(head)}</th>" for head in headers) + "</tr>"]
    for index, row in enumerate(rows):
        mark = ' class="marked"' if index == marked else ""
        lines.append(f"<tr{mark}>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _cell(cell: object) -> str:
    if isinstance(cell, tuple):
        value, small = cell
        return text(value) + (f" <small>{text(small)}</small>" if small else "")
    return text(cell)


def terms(values: Mapping[str, object]) -> str:
    """Return named values as a table with two columns."""
    rows = "".join(
        f"<tr><th>{text(name)}</th><td>{text(v)}</td></tr>" for name, v in values.items()
    )
    return f'<div class="scroll"><table class="terms">{rows}</table></div>'


def folded(summary: str, content: str) -> str:
    """Return content that is shown after a click on the summary."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def code(content: str) -> str:
    """Return a block of text in which spaces and lines count."""
    return f"<pre>{text(content)}</pre>"


def svg_text(figure: Any, *, transparent: bool = True) -> str:
    """Return a matplotlib figure as an SVG document, always with the same bytes.

    What shows it has the letters that matplotlib's font lacks, so it does not warn of them.

    Args:
        figure: the figure.
        transparent: whether what is behind it shows through; else it is white.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    settings: Any = {"svg.hashsalt": "evomerge", "svg.fonttype": "none"}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(buffer, format="svg", transparent=transparent, metadata={"Date": None})
    return buffer.getvalue()


def picture(name: str, figure: Any, caption: str) -> str:
    """Return a matplotlib figure as inline SVG that takes its colours from the page.

    Args:
        name: prefix of all ids in the SVG. matplotlib uses the same ids in different figures, but
            ids must be unique in a page.
        figure: the figure.
        caption: what it shows.
    """
    whole = svg_text(figure)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", whole[whole.index("<svg") :])
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{text(caption)}" ', 1)
    return f"<figure>{svg}<figcaption>{text(caption)}</figcaption></figure>"
