"""How much each gene goes together with the score, over the candidates of a search.

It is Spearman's rank correlation with the first objective on the search documents: 1 if candidates
with a higher value of the gene scored better throughout, -1 if worse. It sees one gene at a time,
and candidates are not drawn at random: an optimizer that has found the right value of a gene tries
few others, and genes that move together share their correlation.
"""

from __future__ import annotations

from evomerge.config.schema import Frozen
from evomerge.run.history import History

_MOST = 30


def importance(history: History, frozen: Frozen) -> dict[str, float]:
    """Return gene -> rank correlation, the strongest first, of at most 30 genes.

    Genes that choose among several names have no order, so they are left out, like those that have
    the same value in all candidates. Only what was scored on all search documents counts.
    """
    from scipy.stats import spearmanr

    unordered = {
        name for item in frozen.gene_ranges if len(item.choices) > 2 for name in item.genes
    }
    scored = [
        item
        for item in history.candidates
        if item.values is not None
        and not item.is_estimate
        and len(item.genome) == len(frozen.genes)
    ]
    goals = [item.values[0] for item in scored if item.values]
    if len(set(goals)) < 2:
        return {}
    found = {}
    for place, name in enumerate(frozen.genes):
        column = [item.genome[place] for item in scored]
        if name not in unordered and len(set(column)) > 1:
            found[name] = float(spearmanr(column, goals).statistic)
    return dict(sorted(found.items(), key=lambda pair: -abs(pair[1]))[:_MOST])
