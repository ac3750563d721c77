"""The report of a run (`evomerge report`): one HTML page that needs no other files.

Its pictures are SVG made with matplotlib: a page has 0.1 to 0.5 MB, needs no script, and can be
printed. Plotly would add 4.5 MB of script to each page.
"""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import not_written
from evomerge.report.colours import STYLE
from evomerge.report.markup import paragraph, svg_text, text
from evomerge.report.progress import progress
from evomerge.report.sections.cost import cost
from evomerge.report.sections.course import course
from evomerge.report.sections.found import found
from evomerge.report.sections.outcome import outcome
from evomerge.report.sections.repeat import repeat
from evomerge.report.sections.tradeoffs import tradeoffs
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
    view, status = View.of(run), progress(run)
    config, title = view.config, text(run.path.absolute().name)
    lead = (
        f"evomerge search over {status['candidates']} candidates, {status['failed']} failed, "
        f"{status['state']}; {config.space.kind} space, optimizer {config.optimizer.name}, seed "
        f"{config.seed}."
    )
    parts = [
        f"<h1>{title}</h1>",
        paragraph(lead, "lead"),
        *outcome(view),
        *found(view),
        *course(view),
        *tradeoffs(view),
        *cost(view),
        *repeat(view),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
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
