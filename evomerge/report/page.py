"""The report of a run (`evomerge report`): one HTML page that needs no other files."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomerge.config.frozen import frozen_objectives
from evomerge.config.schema import parse
from evomerge.errors import InputError
from evomerge.report.examples import examples_section
from evomerge.report.pictures import best_so_far, genome_bars, standings_chart, svg
from evomerge.report.progress import progress
from evomerge.report.rows import candidate_rows
from evomerge.report.standings import Standings, standings
from evomerge.run.atomic import replace_text
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.history import History
from evomerge.scores import SPLITS
from evomerge.search.ranking import WeightedSum, best_of

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
  color: #1d2733; background: #fff; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.lead { color: #51606f; margin-top: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .8rem; border-bottom: 1px solid #e1e6eb; }
th:first-child, td:first-child { text-align: left; }
tr.searched td { font-weight: 600; } small { color: #6b7987; font-weight: 400; }
figure { margin: 0; } svg { max-width: 100%; height: auto; }
details table { font-size: .85rem; } .scroll { overflow-x: auto; }
table.examples th, table.examples td { text-align: left; vertical-align: top; }
table.examples pre { margin: 0;
  white-space: pre-wrap; max-width: 24rem; }
pre { background: #f5f7f9; padding: .8rem; overflow-x: auto; font-size: .8rem; }
@media (prefers-color-scheme: dark) { body { color: #1d2733; background: #fff; } }
"""

_ESTIMATES = (
    "<p>{} candidates were scored on some of the search documents. Their fitness is an estimate, "
    "and the table of candidates has its standard error. The best candidate and the finalists are "
    "not among them: these were scored on all search documents.</p>"
)


def write_page(run: RunFolder, target: Path) -> None:
    """Write the page of a run, as one step: a killed process leaves no partial page.

    Raises:
        InputError: the file cannot be written.
    """
    text = page(run)
    try:
        replace_text(target, text)
    except OSError as error:
        raise InputError(f"--out {target} cannot be written: {error.strerror}.") from error


def page(run: RunFolder) -> str:
    """Return the page of a run as HTML."""
    config = parse(run.config(), str(run.path / CONFIG))
    objectives, history = frozen_objectives(config), History(run.events())
    status = progress(run)
    table = standings(history, objectives)
    best = best_of(history, WeightedSum(objectives))
    estimates = sum(item.is_estimate for item in history.candidates)
    lead = (
        f"{status['candidates']} candidates, {status['failed']} failed, {status['state']}; "
        f"{config.space.kind} space, optimizer {config.optimizer.name}, seed {config.seed}."
    )
    parts = [
        f"<h1>{html.escape(run.path.absolute().name)}</h1>",
        f'<p class="lead">{html.escape(lead)}</p>',
        "<h2>Standings</h2>",
        "<p>Shares in per cent, with 95&nbsp;% intervals. Candidates were compared on the search "
        "documents, the winner was chosen on the validation documents, and nothing was chosen on "
        "the test documents.</p>",
        _standings(table),
        *(
            f"<p>Searched merge against {html.escape(table.names[label])} on {table.compared_on}: "
            f"{item.text}.</p>"
            for label, item in table.comparisons.items()
        ),
        _figure("standings", standings_chart(table)),
        "<h2>Progress</h2>",
        *([_ESTIMATES.format(estimates)] if estimates else []),
        _figure("progress", best_so_far(history)),
    ]
    if best is not None and "genome" in best.origin:
        names = config.frozen.genes if config.frozen else []
        bars = genome_bars(names, best.origin["genome"])
        parts += ["<h2>The winner's genes</h2>", _figure("genes", bars)]
    parts += [
        *examples_section(history, best),
        "<h2>Candidates</h2>",
        "<details><summary>all rows</summary>",
        _rows(candidate_rows(history, objectives)),
        "</details>",
        "<h2>Search file</h2>",
        f"<pre>{html.escape(_search_file(run))}</pre>",
    ]
    title = html.escape(run.path.absolute().name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _standings(table: Standings) -> str:
    heads = [
        f"{html.escape(column)} <small>{split}</small>"
        for column in table.columns
        for split in SPLITS
    ]
    lines = ["<tr><th>model</th>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for row in table.rows:
        cells = []
        for column in table.columns:
            for split in SPLITS:
                item = row.estimates.get((split, column))
                value, bounds = item.texts(table.factor(column)) if item else ("-", "")
                cells.append(f"<td>{value}{f' <small>{bounds}</small>' if bounds else ''}</td>")
        mark = ' class="searched"' if row.label == "searched" else ""
        lines.append(
            f"<tr{mark}><td>{html.escape(table.names[row.label])}</td>{''.join(cells)}</tr>"
        )
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _rows(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "<p>none</p>"
    names = [name for name in rows[0] if name != "digest"]
    lines = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in names) + "</tr>"]
    for row in rows:
        cells = (f"<td>{html.escape(_cell(row[name]))}</td>" for name in names)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _cell(value: Any) -> str:
    if value is None or value is False:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _figure(name: str, figure: Any) -> str:
    """Return a figure as inline SVG.

    Args:
        name: prefix of all ids in the SVG. matplotlib uses the same ids in different figures, but
            ids must be unique in a page.
        figure: a matplotlib figure.
    """
    text = svg(figure)
    inline = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text[text.index("<svg") :])
    return f"<figure>{inline}</figure>"


def _search_file(run: RunFolder) -> str:
    """Return the search file as it was given, without what was added to it at the start."""
    text = (run.path / CONFIG).read_text(encoding="utf-8")
    return text.split("\nfrozen:")[0]
