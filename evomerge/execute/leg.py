"""A leg: a few steps of a descent, in one worker. Its result is one line of the journal.

In each step the model of the descent's genome is built, and the genes move against the slope of its
loss on a batch of documents. These are part of the leg, so any worker makes the same steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from evomerge.errors import CandidateError
from evomerge.evaluation.evaluator import Documents
from evomerge.evaluation.inference.device import is_exhausted
from evomerge.evaluation.inference.rows import Form
from evomerge.evaluation.loss import Loss
from evomerge.merging.resident import Resident
from evomerge.merging.slopes import Move, Slopes, rates
from evomerge.optimize.descent import Leg, Reached
from evomerge.recipe import Recipe
from evomerge.space.baselines import alone
from evomerge.space.protocol import Gene, Genome, Space

REACH = 0.02
"""How far genes are moved to find how they move the knobs, as a share of their ranges."""


def walk(leg: Leg, space: Space, resident: Resident, loss: Loss) -> Reached:
    """Make the steps of a leg; forms of answers that it lacks are those that the baselines prefer.

    EvomergeError: something other than the genome is at fault.
    """
    descent, losses = leg.descent, list[float | None]()
    loss.answers, loss.weights = leg.answers, leg.weights
    for task, recipe in leg.teachers.items():
        loss.teach(task, recipe.digest, leg.lesson[task], partial(resident.apply, recipe))
    loss.forms = leg.forms
    asked = {task: ids for task, ids in leg.batches[0].items() if task not in leg.teachers}
    if unknown := loss.without_form(asked):
        loss.forms = {**leg.forms, **_forms(leg, space, resident, loss, unknown)}
    genes, slopes = space.genes, None
    for documents in leg.batches:
        if slopes is None or slopes.changes:
            found = rates(resident.planner, moves(space, descent.genome))
            slopes = Slopes(resident, found, len(genes))
        try:
            slope, value = _slope(slopes, space.decode(descent.genome), loss, documents)
        except CandidateError:  # the loss or a merged weight is not finite
            descent = descent.failed_step()
            losses.append(None)
        else:
            descent = descent.step(slope, genes, rate=leg.rate, steps=leg.steps)
            losses.append(value)
    watched = None
    if leg.watched:
        with contextlib.suppress(CandidateError):
            watched = loss(resident.apply(space.decode(descent.genome)), leg.watched)
    return Reached(descent, tuple(losses), watched, loss.forms)


def _slope(
    slopes: Slopes, recipe: Recipe, loss: Loss, documents: Documents
) -> tuple[list[float], float]:
    """Return slope and loss at a recipe; if memory runs out, with less of it from then on."""
    try:
        with slopes.of(recipe) as (model, slope):
            value = loss.backward(model, documents)
    except RuntimeError as error:
        if loss.saves_memory or not is_exhausted(error):
            raise
        loss.saves_memory = True
        return _slope(slopes, recipe, loss, documents)
    return slope, value


def _forms(
    leg: Leg, space: Space, resident: Resident, loss: Loss, documents: Documents
) -> dict[str, Form]:
    """Return the form of each task's answers that some parent or the base finds most likely."""
    recipes = list(space.baselines().values())
    if (base := leg.recipe.head.base) is not None:
        recipes.append(alone(base.parent, recipes[-1]))

    def models() -> Iterator[Any]:
        for recipe in recipes:
            with contextlib.suppress(CandidateError):
                yield resident.apply(recipe)

    return loss.choose_forms(models(), documents)


def moves(space: Space, genome: Genome) -> list[Move | None]:
    """Return each real gene moved to either side within its range; None for the other genes."""

    def move(place: int, gene: Gene) -> Move | None:
        if gene.kind != "real":
            return None
        reach = REACH * (gene.high - gene.low)
        low, high = max(gene.low, genome[place] - reach), min(gene.high, genome[place] + reach)
        lower, upper = (
            space.decode((*genome[:place], value, *genome[place + 1 :])) for value in (low, high)
        )
        return Move(lower, upper, high - low)

    return [move(place, gene) for place, gene in enumerate(space.genes)]
