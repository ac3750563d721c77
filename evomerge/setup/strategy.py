"""From a problem to a search strategy, and from a candidate back to its recipe."""

from __future__ import annotations

from evomerge.errors import SearchError
from evomerge.recipe import Recipe
from evomerge.run.history import Candidate
from evomerge.search.ranking import Ranking
from evomerge.setup.optimizer import make_optimizer
from evomerge.setup.problem import Problem
from evomerge.space.protocol import Space
from evomerge.strategy.protocol import Strategy


def make_strategy(problem: Problem, ranking: Ranking) -> Strategy:
    """Return a new strategy of the search's seed.

    Raises:
        ConfigError: an option does not suit the optimizer.
    """
    from evomerge.strategy.genome import GenomeStrategy

    optimizer = make_optimizer(problem.config, problem.space)
    return GenomeStrategy(problem.space, optimizer, ranking.values)


def recipe_of(space: Space, candidate: Candidate) -> Recipe:
    """Return a candidate's recipe.

    Raises:
        SearchError: it is not the recipe that was journaled.
    """
    if candidate.label is not None:
        recipe = space.baselines().get(candidate.label)
    else:
        recipe = space.decode(tuple(candidate.origin.get("genome", ())))
    if recipe is None or recipe.digest != candidate.digest:
        raise SearchError(
            f"Candidate {candidate.number} no longer decodes to the recipe it was scored with; "
            "use the evomerge version named in the run's search.yaml."
        )
    return recipe
