"""The result of the showcase as Markdown tables: one table for each composition.

A row is a way of choosing a merge, a column is a seed. Figures are exact match on test documents in
per cent, with 95 % intervals; with several tasks, one figure for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.real.searches import COMPOSITIONS, Search, base_score

_WINNER = "searched"


def tables(names: Iterable[str], seeds: Sequence[int]) -> str:
    """Finish all searches of these compositions. Returns the tables."""
    return "\n\n".join(_table(name, seeds) for name in names)


def _table(name: str, seeds: Sequence[int]) -> str:
    rows: dict[str, list[str]] = {}
    for way in COMPOSITIONS[name]:
        found = [Search(name, way, seed).finish() for seed in seeds]
        if not rows:  # parents and uniform merge are the same models in all ways
            rows = {name: [_test(item, name) for item in found] for name in _baselines(found[0])}
        rows[way] = [_test(item, _WINNER) for item in found]
    if "stages" not in _text(name):
        rows = {"base model": [_figures(base_score(name)["scores"])] * len(seeds)} | rows
    head = [f"`{Search(name, 'search', 0).config}`", *(f"seed {seed}" for seed in seeds)]
    lines = [head, ["---"] * len(head), *([label, *cells] for label, cells in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(name: str) -> str:
    return Search(name, "search", 0).config.read_text(encoding="utf-8")


def _baselines(results: Mapping[str, Any]) -> list[str]:
    """The names of a run's baselines: of a parent, that of its folder."""
    names = [Path(row["label"]).name for row in results["standings"]["rows"]]
    return [name for name in names if name != _WINNER]


def _test(results: Mapping[str, Any], name: str) -> str:
    """The test scores of one row of a run's standings."""
    rows = results["standings"]["rows"]
    (row,) = (row for row in rows if Path(row["label"]).name == name)
    return _figures(row["splits"]["test"])


def _figures(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The scores of all tasks, in the order of the search file."""
    parts = []
    for score in scores.values():
        value, low, high = (100 * score[key] for key in ("value", "low", "high"))
        parts.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
    return " / ".join(parts)
