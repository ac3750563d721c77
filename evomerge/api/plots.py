"""Pictures of a run, as matplotlib figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.api.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_history(run: Run) -> Figure:
    """Return a figure of the fitness of every candidate, and of the best one so far."""
    from evomerge.report.pictures import best_so_far

    figure: Figure = best_so_far(run.history)
    return figure


def plot_standings(run: Run) -> Figure:
    """Return a figure of parents, uniform merge and searched merge, with 95 % intervals."""
    from evomerge.report.pictures import standings_chart

    figure: Figure = standings_chart(run.standings_table())
    return figure


def plot_genes(run: Run, candidate: int | str = "best") -> Figure:
    """Return a figure of the genes of a candidate; of a path, by depth and parent.

    Raises:
        RunFolderError: there is no such candidate.
    """
    from evomerge.report.gene_map import genes_picture
    from evomerge.report.pictures import genome_bars

    genes = run.genes(candidate)
    names, values = list(genes), list(genes.values())
    drawn = genes_picture(names, values, run.config.space.kind)
    figure: Figure = genome_bars(names, values) if drawn is None else drawn
    return figure
