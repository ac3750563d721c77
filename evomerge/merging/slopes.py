"""Slopes: the derivative of a loss by every real gene, from one backward pass.

    dL/d(gene) = sum over merged tensors W of <dL/dW, dW/d(gene)>

A backward pass gives dL/dW. How a gene moves the knobs of a tensor, `rates` finds from recipes
beside the given one. How a knob moves the tensor says its merge method, or else the central
difference of the method. An example::

    moves = [Move(decode(lower), decode(upper), distance), ...]      # one for each gene
    slopes = Slopes(resident, rates(resident.planner, moves), len(moves))
    with slopes.of(recipe) as (model, slope):     # the model of the recipe is in memory
        loss(model).backward()
    slope                                         # one number for each gene

The gradient of a weight is used and freed as soon as it is complete. Slopes ignore that merged
weights are rounded to the model's dtype.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from math import fsum, isfinite
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor, float32

from evomerge.errors import CandidateError
from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.passes import gradient_products
from evomerge.merging.kernels.torch_views import as_array
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Knob, KnobKey, Merge, Values
from evomerge.merging.resident import Resident
from evomerge.merging.tensors.plan import Planner, TensorPlan
from evomerge.recipe import Recipe

STEP = 0.01
"""Distance by which a knob is moved to either side for a central difference."""

FACTOR: KnobKey = (None, "factor")
"""Stands for the factor that folds the scales of layer routing (see `TensorPlan`)."""


class Move(NamedTuple):
    """A gene moved to either side of a recipe: the recipes there, and how far apart they are."""

    lower: Recipe
    upper: Recipe
    distance: float


Rates: TypeAlias = Mapping[str, Sequence[tuple[int, KnobKey, float]]]
"""Name of a merged tensor -> (number of the gene, knob, derivative of the knob by the gene)."""


def rates(planner: Planner, moves: Sequence[Move | None]) -> Rates:
    """Return how fast genes move the knobs of each merged tensor.

    `moves` has None for a gene without a slope. A gene that changes more than numbers, such as the
    method or a block, moves nothing.
    """
    found: dict[str, list[tuple[int, KnobKey, float]]] = defaultdict(list)
    for gene, move in enumerate(moves):
        if move is None:
            continue
        lower, upper = ([*map(len, it.layers.values())] for it in (move.lower, move.upper))
        if lower != upper:
            continue
        plans = {plan.name: plan for plan in planner.plan(move.upper, move.lower)}
        for one in planner.plan(move.lower, move.upper):
            two = plans.get(one.name)
            if two is None or (one.method, one.inputs) != (two.method, two.inputs):
                continue
            low, high = _knobs(one), _knobs(two)
            for key, value in low.items():
                if value != high[key]:
                    found[one.name].append((gene, key, (high[key] - value) / move.distance))
    return found


def _knobs(plan: TensorPlan) -> dict[KnobKey, float]:
    """Return all knobs of a tensor by which it has a slope, and its factor."""
    if plan.method is None:
        return {}
    smooth = {knob.name for knob in get_method(plan.method).knobs if knob.is_smooth}
    found: dict[KnobKey, float] = {FACTOR: plan.factor}
    for place, knobs in (*enumerate(plan.knobs), (None, plan.merge_knobs or {})):
        found |= {(place, name): value for name, value in knobs.items() if name in smooth}
    return found


class Slopes:
    """Slopes at recipes that a number of `genes` move in the same way, with the same `rates`.

    Other recipes have other rates (`changes`) if a tensor is divided by a product of scales.
    """

    def __init__(self, resident: Resident, rates: Rates, genes: int) -> None:
        self._resident, self._rates, self._genes = resident, rates, genes
        self.changes = any(key == FACTOR for moved in rates.values() for _, key, _ in moved)

    @contextmanager
    def of(self, recipe: Recipe) -> Iterator[tuple[Any, list[float]]]:
        """Build a recipe; yield its model, and a list that has the slopes after the block.

        In the block, call `backward` of a loss of the model's outputs; if several times, the slopes
        are added. Outside of it no weight has a gradient. Raises as `Resident.apply`;
        `CandidateError`: a slope is not finite.
        """
        prepared = self._resident.prepare(recipe)
        model = self._resident.write(prepared)
        plans = {plan.name: plan for plan in prepared.plans if plan.name in self._rates}
        tensors: dict[str, list[str]] = defaultdict(list)
        for name in plans:
            if (location := prepared.layout.locations.get(name)) is not None:
                tensors[location.parameter].append(name)
        parts: dict[int, list[float]] = defaultdict(list)

        def use(parameter: str, weight: Tensor) -> None:
            gradient, weight.grad = weight.grad, None
            assert gradient is not None
            for name in tensors[parameter]:
                plan = plans[name]
                own = prepared.layout.locations[name].view(gradient, plan.shape)
                flat = as_array(own.to("cpu", float32).contiguous()).reshape(-1)
                keys = {key for _, key, _ in self._rates[name]}
                found = self._knob_slopes(plan, keys, flat)
                for gene, key, rate in self._rates[name]:
                    parts[gene].append(found[key] * rate)

        slopes: list[float] = []
        weights = {name: item for name, item in model.named_parameters() if name in tensors}
        with ExitStack() as stack:
            for name, weight in weights.items():
                weight.requires_grad_(True)
                register: Any = weight.register_post_accumulate_grad_hook
                stack.callback(_let_go, weight, register(partial(use, name)))
            yield model, slopes
        slopes += [fsum(parts[gene]) for gene in range(self._genes)]
        if not all(map(isfinite, slopes)):
            raise CandidateError("The gradient of the loss is not finite.")

    def _knob_slopes(
        self, plan: TensorPlan, keys: set[KnobKey], gradient: Array
    ) -> dict[KnobKey, float]:
        """Return the slopes by knobs of one tensor, given the gradient by the tensor."""
        method, merge = get_method(plan.method or ""), self._resident.maker.merge_of(plan)
        found: dict[KnobKey, float] = {}
        if method.slopes is not None:
            exact = method.slopes(merge, plan.knobs, plan.merge_knobs or {}, gradient)
            found = {key: plan.factor * slope for key, slope in exact.items()}
        for key in keys - found.keys():
            if key == FACTOR:  # the result is (merged + offset) factor - offset
                merged = _merged(plan, merge, plan.knobs, plan.merge_knobs or {})
                found[key] = gradient_products(gradient, [merged + np.float32(plan.offset)])[0]
                continue
            knob = next(knob for knob in method.knobs if knob.name == key[1])
            low, high = (_moved(plan, key, knob, step) for step in (-STEP, STEP))
            change = _merged(plan, merge, *high[1:]) - _merged(plan, merge, *low[1:])
            product = gradient_products(gradient, [change])[0]
            found[key] = plan.factor * product / (high[0] - low[0])
        return found


def _let_go(weight: Tensor, hook: Any) -> None:
    hook.remove()
    weight.requires_grad_(False)
    weight.grad = None


def _moved(
    plan: TensorPlan, key: KnobKey, knob: Knob, step: float
) -> tuple[float, Sequence[Values], Values]:
    """Return a knob's value after a step within its range, and all knobs of the tensor then."""
    (place, name), own, shared = key, [*plan.knobs], plan.merge_knobs or {}
    old = shared[name] if place is None else own[place][name]
    value = min(knob.high, max(knob.low, old + step))
    if place is None:
        return value, own, {**shared, name: value}
    own[place] = {**own[place], name: value}
    return value, own, shared


def _merged(plan: TensorPlan, merge: Merge, own: Sequence[Values], shared: Values) -> Array:
    """Return a merged tensor before it is scaled and rounded, as float32."""
    out = np.empty(plan.shape, dtype=np.float32)
    merge(own, shared, out)
    return out
