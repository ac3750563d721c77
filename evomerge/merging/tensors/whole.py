"""What merges need to know of whole models: the angle between two of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from evomerge.merging.kernels.passes import products
from evomerge.merging.methods import get_method
from evomerge.merging.methods.spherical import cosine_of
from evomerge.merging.tensors.maker import TensorMaker
from evomerge.merging.tensors.plan import SourceTensor, TensorPlan
from evomerge.merging.tensors.threads import for_each

_Pair: TypeAlias = tuple[tuple[SourceTensor, ...], ...]
"""The sources of all tensors that are merged of two models."""


@dataclass
class WholeAngles:
    """Adds the angles between whole models to plans, and keeps `most` of them for later candidates.

    A method that is `whole` merges each tensor by the angle between its two sources as whole
    models. So the dot products of all its tensors are added first, in the order of the plans.
    """

    most: int = 64
    _cosines: dict[_Pair, float] = field(default_factory=dict)

    def complete(
        self, plans: Iterable[TensorPlan], maker: TensorMaker, threads: int
    ) -> list[TensorPlan]:
        """Return the plans of one recipe, with the knob `cosine` where the method is `whole`."""
        every = list(plans)
        groups: dict[tuple[str, ...], list[TensorPlan]] = {}
        for plan in every:
            if plan.method is not None and get_method(plan.method).whole:
                groups.setdefault(_models(plan), []).append(plan)
        cosines = {
            plan.name: cosine
            for group in groups.values()
            for cosine in [self._cosine(group, maker, threads)]
            for plan in group
        }
        return [
            replace(plan, merge_knobs={**(plan.merge_knobs or {}), "cosine": cosines[plan.name]})
            if plan.name in cosines
            else plan
            for plan in every
        ]

    def _cosine(self, plans: Sequence[TensorPlan], maker: TensorMaker, threads: int) -> float:
        """Return the cosine of the angle between the two models that plans merge."""
        key = tuple(plan.sources for plan in plans)
        if key not in self._cosines:
            found: dict[str, list[list[float]]] = {}

            def note(plan: TensorPlan) -> None:
                found[plan.name] = products([maker.read(plan, source) for source in plan.sources])

            for_each(note, plans, threads)
            grams = [found[plan.name] for plan in plans]
            total = [[sum(gram[i][j] for gram in grams) for j in range(2)] for i in range(2)]
            while len(self._cosines) >= self.most:
                self._cosines.pop(next(iter(self._cosines)))
            self._cosines[key] = cosine_of(total)
        return self._cosines[key]


def _models(plan: TensorPlan) -> tuple[str, ...]:
    return tuple(source.parent for source in plan.sources)
