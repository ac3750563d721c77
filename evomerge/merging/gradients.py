"""The gradient of a loss by every real gene, from one backward pass.

    dL/d(gene) = sum over merged tensors W of <dL/dW, dW/d(gene)>

A backward pass gives dL/dW. How genes move the knobs of a tensor (`Slopes`) follows from recipes
beside the given one (`knob_changes`). How a knob moves the tensor says its merge method, or else
the central difference of the method. An example::

    gradients = Gradients(resident, genes=2)
    with gradients.of(recipe, slopes) as (model, gradient):
        loss(model).backward()                    # the model of the recipe is in memory
    gradient                                      # one number for each gene

The gradient of a weight is used and freed as soon as it is complete. That merged weights are
rounded to the model's dtype is ignored.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from math import fsum, isfinite
from typing import Any, TypeAlias

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

KnobOf: TypeAlias = tuple[str, KnobKey]
"""Name of a merged tensor, and a knob of it."""

Slopes: TypeAlias = Mapping[str, Sequence[tuple[int, KnobKey, float]]]
"""Name of a merged tensor -> (number of the gene, knob, derivative of the knob by the gene)."""


def knob_changes(planner: Planner, lower: Recipe, upper: Recipe) -> dict[KnobOf, float]:
    """Return by how much the knobs of each merged tensor grow from one recipe to another.

    Where more than numbers changes, such as the method or a block, there is none.
    """
    if [*map(len, lower.layers.values())] != [*map(len, upper.layers.values())]:
        return {}
    changes: dict[KnobOf, float] = {}
    plans = {plan.name: plan for plan in planner.plan(upper, lower)}
    for one in planner.plan(lower, upper):
        two = plans.get(one.name)
        if two is not None and (one.method, one.inputs) == (two.method, two.inputs):
            high = _knobs(two)
            for key, value in _knobs(one).items():
                if value != high[key]:
                    changes[one.name, key] = high[key] - value
    return changes


def _knobs(plan: TensorPlan) -> dict[KnobKey, float]:
    """Return all knobs of a tensor by which it has a gradient, and its factor."""
    if plan.method is None:
        return {}
    smooth = {knob.name for knob in get_method(plan.method).knobs if knob.is_smooth}
    values: dict[KnobKey, float] = {FACTOR: plan.factor}
    for number, knobs in (*enumerate(plan.knobs), (None, plan.merge_knobs or {})):
        values |= {(number, name): value for name, value in knobs.items() if name in smooth}
    return values


class Gradients:
    """Gradients of losses of merged models by a number of `genes`."""

    def __init__(self, resident: Resident, genes: int) -> None:
        self._resident, self._genes = resident, genes

    @contextmanager
    def of(self, recipe: Recipe, slopes: Slopes) -> Iterator[tuple[Any, list[float]]]:
        """Build a recipe; yield its model, and a list that has the gradient after the block.

        In the block, call `backward` of a loss of the model's outputs; if several times, the
        gradients are added. Outside of it no weight has one. Raises as `Resident.apply`;
        `CandidateError`: the gradient is not finite.
        """
        prepared = self._resident.prepare(recipe)
        model = self._resident.write(prepared)
        plans = {plan.name: plan for plan in prepared.plans if plan.name in slopes}
        tensors: dict[str, list[str]] = defaultdict(list)
        locations = prepared.layout.locations
        for name in plans:
            if name in locations:
                tensors[locations[name].parameter].append(name)
        parts: dict[int, list[float]] = defaultdict(list)

        def use(parameter: str, weight: Tensor) -> None:
            whole, weight.grad = weight.grad, None
            assert whole is not None
            for name in tensors[parameter]:
                plan = plans[name]
                part = _part_of(whole, weight, prepared.targets[name].view)
                flat = as_array(part.to("cpu", float32).contiguous()).reshape(-1)
                by_knobs = self._by_knobs(plan, {key for _, key, _ in slopes[name]}, flat)
                for gene, key, slope in slopes[name]:
                    parts[gene].append(by_knobs[key] * slope)

        gradient: list[float] = []
        weights = {name: item for name, item in model.named_parameters() if name in tensors}
        with ExitStack() as stack:
            for name, weight in weights.items():
                weight.requires_grad_(True)
                register: Any = weight.register_post_accumulate_grad_hook
                stack.callback(_let_go, weight, register(partial(use, name)))
            yield model, gradient
        gradient += [fsum(parts[gene]) for gene in range(self._genes)]
        if not all(map(isfinite, gradient)):
            raise CandidateError("The gradient of the loss is not finite.")

    def _by_knobs(
        self, plan: TensorPlan, keys: set[KnobKey], gradient: Array
    ) -> dict[KnobKey, float]:
        """Return the gradients by knobs of one tensor, given the gradient by the tensor."""
        merge, knobs = self._resident.maker.merge_of(plan), (plan.knobs, plan.merge_knobs or {})
        exact = merge.gradients(*knobs, gradient)
        gradients = {key: plan.factor * value for key, value in exact.items()}
        for key in keys - gradients.keys():
            if key == FACTOR:  # the result is (merged + offset) factor - offset
                merged = _merged(plan, merge, *knobs) + np.float32(plan.offset)
                gradients[key] = gradient_products(gradient, [merged])[0]
                continue
            knob = next(knob for knob in merge.method.knobs if knob.name == key[1])
            low, high = (_moved(plan, key, knob, step) for step in (-STEP, STEP))
            change = _merged(plan, merge, *high[1:]) - _merged(plan, merge, *low[1:])
            product = gradient_products(gradient, [change])[0]
            gradients[key] = plan.factor * product / (high[0] - low[0])
        return gradients


def _part_of(gradient: Tensor, weight: Tensor, view: Tensor) -> Tensor:
    """Return the part of a weight's gradient, of its strides, that a view is of the weight."""
    offset = gradient.storage_offset() + view.storage_offset() - weight.storage_offset()
    return gradient.as_strided(view.shape, view.stride(), offset)


def _let_go(weight: Tensor, hook: Any) -> None:
    hook.remove()
    weight.requires_grad_(False)
    weight.grad = None


def _moved(
    plan: TensorPlan, key: KnobKey, knob: Knob, step: float
) -> tuple[float, Sequence[Values], Values]:
    """Return a knob's value after a step within its range, and all knobs of the tensor then."""
    (number, name), sources, shared = key, [*plan.knobs], plan.merge_knobs or {}
    old = shared[name] if number is None else sources[number][name]
    value = min(knob.high, max(knob.low, old + step))
    if number is None:
        return value, sources, {**shared, name: value}
    sources[number] = {**sources[number], name: value}
    return value, sources, shared


def _merged(plan: TensorPlan, merge: Merge, sources: Sequence[Values], shared: Values) -> Array:
    """Return a merged tensor before it is scaled and rounded, as float32."""
    out = np.empty(plan.shape, dtype=np.float32)
    merge(sources, shared, out)
    return out
