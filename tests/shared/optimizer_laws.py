"""All laws of optimizers: the contract, what they learn, and that they search well."""

from collections.abc import Sequence

from known_problems import PROBLEMS
from learning_laws import check_learning
from search_laws import FAST, Reference, check_search

from evomerge.space.protocol import Gene
from evomerge.testing import GENES, check_optimizer
from evomerge.testing.optimizers import Create


def check_laws(
    create: Create,
    genes: Sequence[Gene] = GENES,
    trials: int = 200,
    objectives: int = 1,
    reference: Reference | None = None,
    seeds: int = 10,
) -> None:
    """Check all laws of an optimizer that learns; see `check_search`."""
    check_optimizer(lambda genes, setting: create(genes, setting.seed), genes, trials, objectives)
    check_learning(create, genes, objectives)
    kinds, short = {gene.kind for gene in genes}, ("sphere", "mixed", "one-max", "zdt1", "dtlz2")
    names = [name for name in short if {gene.kind for gene in PROBLEMS[name].genes} <= kinds]
    if seeds:
        check_search(create, reference, objectives, names, FAST, min(trials, 150), seeds)
