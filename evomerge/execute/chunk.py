"""A chunk: a few steps of a descent, in one worker. Its result is one line of the journal.

In each step the model of the descent's genome is built, and the genes move against the gradient of
its loss on a batch of documents. These are part of the chunk, so any worker makes the same steps.
"""

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from evomerge.device import is_exhausted
from evomerge.errors import CandidateError
from evomerge.evaluation.inference.rows import Form
from evomerge.evaluation.loss import AnswerKey, Loss
from evomerge.evaluation.tasks.objective import Documents
from evomerge.merging.gradients import FACTOR, Gradients, KnobOf, Rates, knob_changes
from evomerge.merging.resident import Resident
from evomerge.optimize.descent import Chunk, Reached
from evomerge.recipe import Recipe
from evomerge.space.baselines import alone
from evomerge.space.protocol import Genome, Space

REACH = 0.02
"""How far genes are moved to find how they move the knobs, as a share of their ranges."""


Sources: TypeAlias = tuple[tuple[str, tuple[tuple[str, int | None], ...]], ...]
"""The method of each layer of a recipe, and the parents and layers that it is made from."""


def sources_of(recipe: Recipe) -> Sources:
    """Return what a recipe merges from what: all of it but knobs, scales and the seed."""
    return tuple(
        (layer.method, tuple((item.parent, item.layer) for item in layer.inputs))
        for layer in recipe.every_layer()
    )


class Stepper:
    """Makes the steps of chunks, with what it has learned of the space by the chunks before."""

    def __init__(self, space: Space, resident: Resident, loss: Loss) -> None:
        self.space, self.resident, self.loss = space, resident, loss
        self._gradients = Gradients(resident, len(space.genes))
        self._owners: dict[Sources, Mapping[KnobOf, int]] = {}
        """What is merged from what -> which gene moves a knob, if one alone does."""

    def make(self, chunk: Chunk) -> Reached:
        """Make the steps of a chunk; forms of answers it lacks are those that baselines prefer.

        EvomergeError: something other than the genome is at fault.
        """
        descent, losses, loss = chunk.descent, list[float | None](), self.loss
        key = AnswerKey(chunk.answers, chunk.forms, chunk.weights)
        for task, recipe in chunk.teachers.items():
            loss.teach(
                task, recipe.digest, chunk.lesson[task], partial(self.resident.apply, recipe)
            )
        asked = {task: ids for task, ids in chunk.batches[0].items() if task not in chunk.teachers}
        if unknown := loss.without_form(asked, key.forms):
            key = replace(key, forms={**key.forms, **self._forms(chunk, unknown, key)})
        rates = self._rates(descent.genome)
        have_factors = any(key == FACTOR for of in rates.values() for _, key, _ in of)
        for number, documents in enumerate(chunk.batches):
            if have_factors and number:  # one is a product of scales, which moves with all of them
                rates = self._rates(descent.genome)
            try:
                recipe = self.space.decode(descent.genome)
                gradient, value = self._step(recipe, rates, documents, key)
            except CandidateError:  # the loss or a merged weight is not finite
                descent = descent.failed_step()
                losses.append(None)
            else:
                rate, steps = chunk.rate, chunk.steps
                descent = descent.step(gradient, self.space.genes, rate=rate, steps=steps)
                losses.append(value)
        watched = None
        if chunk.watched:
            with contextlib.suppress(CandidateError):
                model = self.resident.apply(self.space.decode(descent.genome))
                watched = loss(model, chunk.watched, key)
        return Reached(descent, tuple(losses), watched, key.forms)

    def _step(
        self, recipe: Recipe, rates: Rates, documents: Documents, key: AnswerKey
    ) -> tuple[list[float], float]:
        """Return gradient and loss at a recipe; if memory runs out, with less from then on."""
        try:
            with self._gradients.of(recipe, rates) as (model, gradient):
                value = self.loss.backward(model, documents, key)
        except RuntimeError as error:
            if not (is_exhausted(error) and self.loss.save_memory()):
                raise
            return self._step(recipe, rates, documents, key)
        return gradient, value

    def _forms(self, chunk: Chunk, documents: Documents, key: AnswerKey) -> dict[str, Form]:
        """Return the form of each task's answers that a parent or the base finds most likely."""
        recipes = list(self.space.baselines().values())
        if (base := chunk.recipe.head.base) is not None:
            recipes.append(alone(base.parent, recipes[-1]))

        def models() -> Iterator[Any]:
            for recipe in recipes:
                with contextlib.suppress(CandidateError):
                    yield self.resident.apply(recipe)

        return self.loss.choose_forms(models(), documents, key)

    def _rates(self, genome: Genome) -> Rates:
        """Return how fast the real genes move knobs at a genome.

        To find which knobs each gene moves, it is moved alone. If each knob then belongs to one
        gene, they are all moved at once from then on, where this changes nothing but knobs.
        """
        ends = dict[int, tuple[float, float]]()
        for number, (gene, value) in enumerate(zip(self.space.genes, genome, strict=True)):
            reach = REACH * (gene.high - gene.low)
            if gene.kind == "real":
                ends[number] = max(gene.low, value - reach), min(gene.high, value + reach)

        def moved(genes: Collection[int]) -> list[Recipe]:
            return [
                self.space.decode(
                    tuple(ends[i][side] if i in genes else value for i, value in enumerate(genome))
                )
                for side in (0, 1)
            ]

        def changes(recipes: list[Recipe]) -> dict[KnobOf, float]:
            return knob_changes(self.resident.planner, *recipes)

        here, all_moved = sources_of(self.space.decode(genome)), moved(ends)
        owners = self._owners.get(here)
        is_plain = owners is not None and all(sources_of(item) == here for item in all_moved)
        together = changes(all_moved) if is_plain else {}
        if owners and together.keys() == owners.keys():
            moves = [(owners[knob], knob, change) for knob, change in together.items()]
        else:
            moves = [
                (i, knob, change) for i in ends for knob, change in changes(moved([i])).items()
            ]
            owners = {knob: number for number, knob, _ in moves}
            if len(owners) == len(moves):
                self._owners[here] = owners
        rates = defaultdict(list)
        for number, (tensor, key), change in moves:
            low, high = ends[number]
            rates[tensor].append((number, key, change / (high - low)))
        return rates
