"""The archives of CycleQD: how many cells they have filled, and how well, over the candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

from evomerge.config.schema import SearchConfig
from evomerge.config.strategies import CycleQDOptions, options_of
from evomerge.report.figures import ACCENT, BAD, GREY, INK, WARM, add_legend, label_text, make_axes
from evomerge.run.history import SOUP, History
from evomerge.scores import Scores
from evomerge.searching.ranking import Ranking
from evomerge.space.baselines import GREEDY_SOUP
from evomerge.strategy.archive import Archive, Grid, finite_values

_PARTS = 4  # of the search, after each of which the table has a row


@dataclass(frozen=True)
class Filled:
    """What an archive had after a number of candidates.

    Attributes:
        candidates: number of candidates with an outcome.
        archive: key of the archive's objective.
        elites: number of cells with an elite.
        coverage: the same as a share of all cells.
        qd_score: sum of the elites' qualities, each measured from the lower bound.
    """

    candidates: int
    archive: str
    elites: int
    coverage: float
    qd_score: float


def archives_over_time(
    history: History, ranking: Ranking, config: SearchConfig
) -> list[list[Filled]]:
    """Return what each archive had after each candidate; empty if the strategy has no archives.

    Args:
        history: the state of the run.
        ranking: its objectives and constraints.
        config: its search file.
    """
    if config.optimizer.name != "cycleqd":
        return []
    options, objectives = options_of(config, CycleQDOptions), ranking.objectives
    grid = Grid.of(objectives, options.bins, options.bounds)
    archives = [Archive(grid, index) for index in range(len(objectives))]
    rows = []
    for count, item in enumerate(history.told, start=1):
        averaged = SOUP in item.origin or item.label == GREEDY_SOUP  # no candidate of the strategy
        if isinstance(item.told, Scores) and not averaged:
            values = finite_values(objectives, ranking.constraints, item.told)
            for archive in archives if values is not None else ():
                archive.add(item.number, values or ())
        rows.append(
            [
                Filled(count, objective.key, len(own.elites), own.coverage, own.qd_score)
                for objective, own in zip(objectives, archives, strict=True)
            ]
        )
    return rows


def some_rows(rows: Sequence[Sequence[Filled]]) -> list[Sequence[Filled]]:
    """Return the rows after each quarter of the candidates; the last row is the state now."""
    ends = {len(rows) * part // _PARTS for part in range(1, _PARTS + 1)}
    return [rows[end - 1] for end in sorted(ends) if end]


def records(rows: Sequence[Sequence[Filled]]) -> list[dict[str, Any]]:
    """Return rows as JSON values, one record for each archive of a row."""
    return [asdict(item) for row in rows for item in row]


def in_words(rows: Sequence[Sequence[Filled]]) -> list[dict[str, str]]:
    """Return rows for people, one for each archive of a row."""
    return [
        {
            "archive of": item.archive,
            "candidates": str(item.candidates),
            "elites": str(item.elites),
            "coverage": f"{100 * item.coverage:.1f} %",
            "QD score": f"{item.qd_score:.2f}",
        }
        for row in rows
        for item in row
    ]


def archives_chart(rows: Sequence[Sequence[Filled]]) -> Any:
    """Plot coverage and QD score of each archive over the candidates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    panels: Mapping[str, Any] = {
        "coverage in %": lambda item: 100 * item.coverage,
        "QD score": lambda item: item.qd_score,
    }
    numbers = [row[0].candidates for row in rows]
    for place, (name, value) in enumerate(panels.items(), start=1):
        axes = make_axes(figure.add_subplot(2, 1, place))
        colours = cycle((ACCENT, WARM, GREY, BAD, INK))
        for index, colour in zip(range(len(rows[0])), colours, strict=False):
            heights = [value(row[index]) for row in rows]
            label = label_text(rows[0][index].archive)
            axes.step(numbers, heights, where="post", color=colour, label=label)
        axes.set_ylabel(name, color=INK, fontsize=10)
    axes.set_xlabel("candidates", color=INK, fontsize=10)
    add_legend(figure)
    return figure
