"""The search strategy of a problem, and the recipe of a candidate."""

from __future__ import annotations

from evomerge.errors import SearchError
from evomerge.recipe import Recipe
from evomerge.run.history import SOUP, Candidate
from evomerge.scores import violation
from evomerge.setup.optimizer import make_optimizer
from evomerge.setup.problem import Problem
from evomerge.space.baselines import UNIFORM, average_of
from evomerge.space.protocol import Space
from evomerge.strategy.protocol import Strategy


def make_strategy(problem: Problem) -> Strategy:
    """Return a new strategy with the search's seed.

    Raises:
        ConfigError: there is no such optimizer, or a setting does not suit it.
    """
    from evomerge.strategy.genome import GenomeStrategy

    optimizer = make_optimizer(problem.config, problem.space)
    return GenomeStrategy(
        problem.space,
        optimizer,
        problem.ranking.values,
        lambda scores: violation(problem.constraints, scores),
        problem.start,
    )


def recipe_of(space: Space, candidate: Candidate) -> Recipe:
    """Return a candidate's recipe, made again from its origin.

    Raises:
        SearchError: its digest is not the one in the journal.
    """
    if SOUP in candidate.origin:
        uniform = space.baselines().get(UNIFORM)
        recipe = uniform and average_of(candidate.origin[SOUP], uniform)
    elif candidate.label is not None:
        recipe = space.baselines().get(candidate.label)
    else:
        recipe = space.decode(tuple(candidate.origin.get("genome", ())))
    if recipe is None or recipe.digest != candidate.digest:
        raise SearchError(
            f"Candidate {candidate.number} no longer decodes to the recipe it was scored with; "
            "use the evomerge version named in the run's search.yaml."
        )
    return recipe
