"""How closely the fitness of a search follows each gene."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.run.history import History

LEAST = 10
"""Smallest number of candidates of which correlations say something."""

MOST = 12
"""Largest number of genes that are returned."""


def gene_importance(history: History, names: Sequence[str]) -> dict[str, float]:
    """Return Spearman's rank correlation of the genes with the fitness, the closest ones first.

    Args:
        history: the state of a run.
        names: names of the genes, in the order of the genome.

    Returns:
        name -> correlation from -1 to 1, of at most `MOST` genes; none if there are fewer than
        `LEAST` candidates. Estimated scores count too. A gene that never changed is left out.
    """
    rows = [
        (item.genome, item.fitness)
        for item in history.candidates
        if item.fitness is not None and len(item.genome) == len(names) > 0
    ]
    if len(rows) < LEAST:
        return {}
    import numpy as np
    from scipy.stats import rankdata

    genomes = np.array([genome for genome, _ in rows], dtype=float)
    ranks = np.column_stack([rankdata(column) for column in genomes.T])
    fitness = rankdata([value for _, value in rows])
    ranks -= ranks.mean(axis=0)
    fitness = fitness - fitness.mean()
    spread = np.sqrt((ranks**2).sum(axis=0) * (fitness**2).sum())
    found = {
        name: float(ranks[:, index] @ fitness / spread[index])
        for index, name in enumerate(names)
        if spread[index] > 0
    }
    order = sorted(found, key=lambda name: -abs(found[name]))
    return {name: found[name] for name in order[:MOST]}
