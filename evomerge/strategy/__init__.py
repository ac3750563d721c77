"""Search strategies: they propose recipes and are told the outcomes.

Importing this package imports neither numpy nor a strategy.
"""

from __future__ import annotations

from collections.abc import Mapping

STRATEGIES: Mapping[str, str] = {
    "niches": "natural niches (M2N2): merges of earlier merges, kept for what they alone solve",
    "cycleqd": "CycleQD: merges of earlier merges, kept for each mixture of skills; two objectives "
    "or more",
}
"""Names that `optimizer.name` can have besides those of optimizers of genes -> one line each."""
