"""The result of the showcase as Markdown tables: one table for each composition.

A row is a way of choosing a merge, a column is a seed. Figures are exact match on test documents in
per cent, with 95 % intervals; with several tasks, one figure for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from evomerge.report.standings import Standings
from evomerge.report.view import View
from evomerge.run.folder import RunFolder
from scripts.real.searches import base_score, config, finish

_WINNER = "searched"


def tables(names: Iterable[str], seeds: Sequence[int]) -> str:
    """Finish all searches of these compositions. Returns the tables."""
    return "\n\n".join(_table(name, seeds) for name in names)


def _table(name: str, seeds: Sequence[int]) -> str:
    rows: dict[str, list[str]] = {}
    for way, runs in finish(name, seeds).items():
        found = [View.of(RunFolder(run.folder)).table for run in runs]
        if not rows:  # parents and uniform merge are the same models in all ways
            rows = {label: [_test(item, label) for item in found] for label in _baselines(found[0])}
        rows[way] = [_test(item, _WINNER) for item in found]
    text = config(name).read_text(encoding="utf-8")
    if "base: zoo:" not in text:  # the zoo's base cannot see
        rows = {"base model": [_figures(base_score(name))] * len(seeds)} | rows
    head = [f"`{config(name)}`", *(f"seed {seed}" for seed in seeds)]
    lines = [head, ["---"] * len(head), *([label, *cells] for label, cells in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _baselines(table: Standings) -> list[str]:
    """The names of a run's baselines: of a parent, that of its folder."""
    names = [Path(row.label).name for row in table.rows]
    return [name for name in names if name != _WINNER]


def _test(table: Standings, name: str) -> str:
    """The test scores of one row of a run's standings."""
    (row,) = (row for row in table.rows if Path(row.label).name == name)
    return _figures({column: row.estimates["test", column].to_dict() for column in table.columns})


def _figures(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The scores of all tasks, in the order of the search file."""
    parts = []
    for score in scores.values():
        value, low, high = (100 * score[key] for key in ("value", "low", "high"))
        parts.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
    return " / ".join(parts)
