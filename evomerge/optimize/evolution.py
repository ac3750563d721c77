"""Optimizers of nevergrad: two under names of this package, others under their own.

nevergrad works in the coordinates z = (point of the cube - start) / step, so a search starts at 0
with a standard deviation of 1. It is told of one worker and no budget: its proposals depend on
both, those of a search must not.
"""

import math
import pickle
import warnings
from collections.abc import Sequence, Set
from functools import lru_cache
from typing import Any

import nevergrad
import numpy as np
from nevergrad.optimization.utils import UidQueue

from evomerge.compat.nevergrad import mixes_steps, population_of, replace_queue
from evomerge.errors import ConfigError, did_you_mean
from evomerge.optimize.base import INJECTED_SHARE, REPLACED, BaseOptimizer, Choices, Cube, Vector
from evomerge.optimize.protocol import Setting
from evomerge.space.protocol import Gene

ALGORITHMS = {
    *("_OnePlusOne", "_DE", "_PSO", "_CMA", "_EvolutionStrategy"),
    *("_TBPSA", "_EMNA", "EDA", "cGA", "SPSA"),
}
"""Classes of nevergrad that are one algorithm, told of one outcome after the other. Others combine
such algorithms, mostly by the budget, sample a whole budget at once, or run in a thread."""

OWN_SAMPLES = {"_CMA", "_TBPSA", "_EMNA", "EDA", "cGA", "SPSA"}
"""Those of them that learn from how they have drawn a point, so they are not told of others. EDA
and EMNA would raise. TBPSA would take the distance for a step; CMA, cGA and SPSA would count the
point as one of the next generation, or as one half of a pair."""

FILLED = {"_DE", "_PSO"}
"""Those of them whose first population takes in whatever is told until it is full."""


class Nevergrad(BaseOptimizer):
    """An optimizer of nevergrad; its proposals are clipped to the bounds of the cube.

    nevergrad takes losses for noisy. It ranks points by mean + 0.1 sqrt(variance / (1 + count)),
    and a point that was told once has a variance of 10^6. If one were told twice with the same
    loss, its variance would be 0, and no later point would be better. Here losses are exact: a
    point that is told again replaces its entry in the archive, so all count as told once.

    Points that it did not propose take places in a population, in the order in which they are told,
    but no more than a share of `INJECTED_SHARE`: else there would be too few of its own to breed
    from. More of them wait until the first generation is told; then each takes the place of a worse
    member.
    """

    def __init__(
        self, genes: Sequence[Gene], setting: Setting, configured: Any, choices: Choices = "keys"
    ) -> None:
        """`configured` is an entry of nevergrad's registry, or a `ConfiguredOptimizer`."""
        cube, seed = Cube(genes, setting.sigma, choices), setting.seed
        low, high = ((end - cube.start) / cube.step for end in (cube.low, cube.high))
        self._inner = _instance(configured, low, high, seed)
        self._own_only = _is_of(self._inner, OWN_SAMPLES)
        is_strategy = _is_of(self._inner, {"_EvolutionStrategy"})
        super().__init__(cube, population_of(self._inner, is_evolution_strategy=is_strategy))
        first = cube.decided(np.random.RandomState([seed % 2**32, 1])) - cube.start
        if first.any() and _is_of(self._inner, {"_OnePlusOne"}):  # it would try the start itself
            self._inner.suggest(first / cube.step)
        if is_strategy or _is_of(self._inner, FILLED):
            replace_queue(self._inner, ParentQueue())
        self._first_left = self.population if _is_of(self._inner, FILLED) else 0
        self._places = math.floor(INJECTED_SHARE * self.population)
        self._held: list[tuple[Vector, float]] = []

    def propose(self) -> tuple[object, Vector]:
        """Return nevergrad's candidate and its point."""
        candidate = self._inner.ask()
        return candidate, self.cube.start + self.cube.step * candidate.value

    def learn(self, sample: object, point: Vector, loss: float) -> None:
        """Tell nevergrad the loss of a point, also of one that it did not propose, if it can."""
        if sample is None and self._first_left:
            if self._places == 0:
                self._held.append((point, loss))
                return
            self._places -= 1
        self._tell(sample, point, loss)
        if sample is not None and self._first_left:
            self._first_left -= 1
            if self._first_left == 0:
                for held in self._held:
                    self._tell(None, *held)
                self._held.clear()

    def _tell(self, sample: object, point: Vector, loss: float) -> None:
        candidate: Any = sample
        space = self._inner.parametrization
        if sample is None or sample is REPLACED:
            if self._own_only:
                return
            candidate = space.spawn_child(new_value=(point - self.cube.start) / self.cube.step)
        data = candidate.get_standardized_data(reference=space)
        self._inner.archive.bytesdict.pop(data.tobytes(), None)
        self._inner.tell(candidate, loss)


class ParentQueue(UidQueue):  # type: ignore[misc]
    """The queue of population members that wait for their next child; holds each member once.

    nevergrad's own adds a member for every child that is told, and removes it once when a better
    point replaces it: with two open children, a later `ask` fails.
    """

    def tell(self, uid: str) -> None:
        """Add a member at the end, unless it is in the queue already."""
        if uid not in self.told:
            super().tell(uid)


def _instance(configured: Any, low: Vector, high: Vector, seed: int) -> Any:
    """Return an optimizer of nevergrad for points between two corners; it starts at 0."""
    parameter = nevergrad.p.Array(shape=low.shape)
    parameter.random_state = np.random.RandomState(seed % 2**32)
    with warnings.catch_warnings(action="ignore"):  # nevergrad warns of every sigma above 1/3
        parameter.set_bounds(low, high, method="clipping", full_range_sampling=False)
    return configured(parameter, budget=None, num_workers=1)


def _is_of(inner: Any, names: Set[str]) -> bool:
    return any(item.__name__ in names for item in type(inner).__mro__)


def create_two_points(genes: Sequence[Gene], setting: Setting) -> Nevergrad:
    """Return differential evolution with two-point crossover (Storn & Price 1997; F = 0.8)."""
    configured = nevergrad.optimizers.DifferentialEvolution(
        popsize=setting.population or 30, crossover="twopoints"
    )
    return Nevergrad(genes, setting, configured)


def create_discrete_lengler(genes: Sequence[Gene], setting: Setting) -> Nevergrad:
    """Return a (1+1) strategy that draws fewer and fewer genes anew (Einarsson et al. 2018)."""
    configured = nevergrad.optimizers.ParametrizedOnePlusOne(mutation="lengler")
    return Nevergrad(genes, setting, configured, "quantiles")


def create_named(genes: Sequence[Gene], setting: Setting, name: str) -> Nevergrad:
    """Return the optimizer of nevergrad's registry with this name.

    Raises:
        ConfigError: there is none, or it breaks a law of `evomerge.optimize.protocol`.
    """
    registry = nevergrad.optimizers.registry
    if name not in registry:
        raise ConfigError(
            f"optimizer.name is 'nevergrad:{name}', but nevergrad {nevergrad.__version__} has no "
            f"optimizer {name!r}; its documentation lists them.{did_you_mean(name, registry)}"
        )
    if not _keeps_the_laws(name):
        raise ConfigError(
            f"optimizer.name is 'nevergrad:{name}', which combines algorithms by the budget, runs "
            "one in a thread, draws from global random numbers, repeats points because of noise, "
            "or ends with an error of its own; choose another one, for example "
            "`nevergrad:OnePlusOne` or `nevergrad:DE`."
        )
    return Nevergrad(genes, setting, registry[name])


@lru_cache
def _keeps_the_laws(name: str) -> bool:
    state = np.random.get_state()
    try:
        first, again = _try_out(name), _try_out(name)
        is_moved = pickle.dumps(np.random.get_state()) != pickle.dumps(state)
    except Exception:  # it needs a budget, or is not told of points that it did not propose
        return False
    finally:
        np.random.set_state(state)
    return first == again and not is_moved and 0 < len(first) <= 2 * len(set(first))


def _try_out(name: str) -> list[bytes]:
    """Return the proposals of a short search with four open points; none unless it is sound."""
    high = np.full(8, 3.0)
    inner = _instance(nevergrad.optimizers.registry[name], -high, high, seed=5)
    asked: list[Any] = []
    with warnings.catch_warnings(action="ignore"):
        is_sound = _is_of(inner, ALGORITHMS) and not mixes_steps(inner)
        for number in range(100 if is_sound else 0):
            trials = [asked[-4]] if number > 3 else []
            if number % 25 < 2 and not _is_of(inner, OWN_SAMPLES):
                value = np.full(8, number / 50 - 1)
                trials.append(inner.parametrization.spawn_child(new_value=value))
            for item in trials:
                inner.tell(item, float(((item.value - 1) ** 2).sum()))
            asked.append(inner.ask())
    return [item.value.tobytes() for item in asked]
