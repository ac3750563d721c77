"""The optimizer that is chosen by the genes: the default.

The rules are what benchmarks/optimizers.py has measured (docs/choosing-an-optimizer.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.optimize.protocol import Optimizer
from evomerge.optimize.setting import Setting
from evomerge.space.protocol import Gene

MANY_GENES = 200
"""With more genes than this, CMA-ES learns variances only: learning the full covariance would take
more trials than it saves."""


def choose(genes: Sequence[Gene], population: int | None = None) -> str:
    """Return the name of the optimizer for some genes.

    Args:
        genes: the genes.
        population: `optimizer.population`; None: `auto`. With a population, only optimizers that
            have one are chosen.
    """
    discrete = sum(gene.kind != "real" for gene in genes)
    switches = sum(gene.switch for gene in genes)
    if 2 * (discrete + switches) > len(genes):
        one_by_one = population is None and switches > discrete
        return "discrete-lengler" if one_by_one else "two-points-de"
    if len(genes) > MANY_GENES:
        return "diagonal-cma"
    return "cma-margin" if discrete else "cma"


def create(genes: Sequence[Gene], setting: Setting) -> Optimizer:
    """Return the optimizer that `choose` names."""
    from evomerge.optimize import create

    return create(
        choose(genes, setting.population),
        genes,
        setting.seed,
        setting.population,
        setting.sigma,
        setting.budget,
        setting.objectives,
        setting.options,
    )
