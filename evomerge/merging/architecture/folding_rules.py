"""Finding which weights of an architecture must be multiplied to fold scales into them.

The rules are not written down for any architecture. They are found on a miniature of the model with
random weights, and then checked on it by comparing outputs.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from evomerge.merging.architecture.miniature import Miniature
from evomerge.merging.architecture.submodel import Submodel, WeightGroup, multiplied

_TOLERANCE = 2e-4
"""Largest relative difference of two outputs that count as equal (they are float32)."""

_MOST_SIGN_TRIALS = 3000


@dataclass(frozen=True, slots=True)
class Rescaling:
    """What folding does to one tensor w: (w + offset) * factor - offset.

    Attributes:
        factor: see above.
        offset: what the architecture adds to the weight before it uses it (1 in Gemma's norms).
    """

    factor: float
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class TensorRule:
    """How tensors of one kind depend on c, the product of all scales up to their block.

    They are multiplied by |c|^power, and by -1 if `flips` is set and c is negative.

    Attributes:
        power: -1 for a tensor that writes into the hidden state, 1 for one that reads it without a
            norm, else 0.
        flips: whether the tensor changes sign with c.
        offset: see `Rescaling`.
    """

    power: int
    flips: bool
    offset: float = 0.0

    def at(self, product: float) -> Rescaling:
        """Return the rescaling for one value of c."""
        sign = -1.0 if self.flips and product < 0 else 1.0
        return Rescaling(sign * abs(product) ** self.power, self.offset)


@dataclass(frozen=True)
class FoldingRules:
    """The rules for all tensors of an architecture; tensors without a rule do not change.

    Attributes:
        inside: rules by kind of tensor in a block (see `kind_of`).
        outside: rules by name of a tensor after the last block.
        allows_negative: whether negative products of scales can be folded.
    """

    inside: Mapping[str, TensorRule]
    outside: Mapping[str, TensorRule]
    allows_negative: bool


class UnfoldableError(Exception):
    """Scales cannot be folded into the weights of an architecture; the message says why."""


@lru_cache(maxsize=16)
def find_rules(config: str, stack: str) -> FoldingRules:
    """Find the folding rules of an architecture, with a miniature that has random weights.

    Scales can be folded into a block f with weights w if f(c x; w) / c = f(x; folded w), where each
    w_p is multiplied by c^(e_p). The derivative of this equation at c = 1 is linear in the powers:
    f'(x) x - f(x) = sum_p e_p f'(w_p) w_p. Least squares over all outputs gives the powers, which
    are rounded to -1, 0 or 1 and checked at c = 2.5. The tensors that change sign are found by
    trying subsets at c = -1, the likeliest first, and checked at c = -0.7.

    Args:
        config: `config.json` of a causal language model, as JSON text.
        stack: last word of the name of its block stack (`layers`, `h`).

    Raises:
        UnfoldableError: there are no such rules.
        NoMiniatureError: the miniature cannot be made.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        model = Miniature(json.loads(config), stack)
        inside: dict[str, TensorRule] = {}
        allows_negative = True
        for block in model.blocks():
            powers = _find_powers(block)
            _check(block, powers, 2.5, "a scale of 2.5")
            flips = _find_flips(block, powers)
            allows_negative = allows_negative and flips is not None
            for weight in block.weights:
                name = weight.name
                rule = TensorRule(powers[name], name in (flips or ()), weight.offset)
                if inside.setdefault(name, rule) != rule:
                    raise UnfoldableError(f"its blocks need {name!r} folded in different ways")
        tail = model.tail()
        _check(tail, {}, 2.5, "a scale of 2.5 after the last block")
        flips = _find_flips(tail, {})
        allows_negative = allows_negative and flips is not None
        outside = {
            weight.name: TensorRule(0, True, weight.offset)
            for weight in tail.weights
            if weight.name in (flips or ())
        }
    used = {name: rule for name, rule in inside.items() if rule.power or rule.flips}
    return FoldingRules(used, outside, allows_negative)


def _expected(submodel: Submodel, product: float) -> Tensor:
    """Return what the submodel must return with folded weights: f(c x) / c."""
    return submodel.run(submodel.state * product) / product**submodel.degree


def _folded(submodel: Submodel, rules: Mapping[str, TensorRule], product: float) -> Tensor:
    """Return what the submodel does return with weights folded for the product c."""
    with multiplied(
        [
            (weight, rules[weight.name].at(product).factor)
            for weight in submodel.weights
            if weight.name in rules
        ]
    ):
        return submodel.run(submodel.state)


def _close(one: Tensor, two: Tensor) -> bool:
    return bool((one - two).norm() <= _TOLERANCE * two.norm())


def _derivative(value: Callable[[float], Tensor], step: float = 0.02) -> Tensor:
    """Return the derivative of a function at 1 by the five-point rule.

    Its error is small enough for float32, which norms use even in a float64 model.
    """
    near = value(1 + step) - value(1 - step)
    far = value(1 + 2 * step) - value(1 - 2 * step)
    return (8 * near - far) / (12 * step)


def _find_powers(submodel: Submodel) -> dict[str, int]:
    """Solve for the powers of all kinds of tensors.

    Often one of several tensors could be multiplied (the value or the output matrix of attention).
    Then matrices are preferred to vectors, and tensors that are registered later to earlier ones.
    """

    def changed(weight: WeightGroup) -> Tensor:
        def value(factor: float) -> Tensor:
            with multiplied([(weight, factor)]):
                return submodel.run(submodel.state)

        return _derivative(value).flatten()

    result = submodel.run(submodel.state).flatten()
    wanted = _derivative(lambda factor: submodel.run(submodel.state * factor).flatten()) - result
    columns: list[Tensor] = []
    basis: list[Tensor] = []
    chosen: list[WeightGroup] = []
    matrices = [weight for weight in submodel.weights if not weight.is_vector]
    vectors = [weight for weight in submodel.weights if weight.is_vector]
    for weight in (*reversed(matrices), *reversed(vectors)):
        column = changed(weight)
        rest = column
        for direction in basis:
            rest = rest - (rest @ direction) * direction
        if rest.norm() > 1e-2 * column.norm() and column.norm() > 1e-3 * result.norm():
            basis.append(rest / rest.norm())
            columns.append(column)
            chosen.append(weight)
    powers = dict.fromkeys((weight.name for weight in submodel.weights), 0)
    if columns:
        matrix = torch.stack(columns, dim=1)
        solution = torch.linalg.lstsq(matrix, wanted[:, None]).solution[:, 0]
        for weight, value in zip(chosen, solution.tolist(), strict=True):
            powers[weight.name] = max(-1, min(1, round(value)))
    return powers


def _check(submodel: Submodel, powers: Mapping[str, int], product: float, what: str) -> None:
    """Raise UnfoldableError unless these powers fold the product; `what` names it for people."""
    rules = {name: TensorRule(power, False) for name, power in powers.items()}
    if not _close(_folded(submodel, rules, product), _expected(submodel, product)):
        raise UnfoldableError(f"no change of its weights has the effect of {what}")


def _find_flips(submodel: Submodel, powers: Mapping[str, int]) -> frozenset[str] | None:
    """Return which kinds of tensors change sign with c, or None if no subset of them is right."""
    wanted = _expected(submodel, -1.0)
    likely = {
        weight.name
        for weight in submodel.weights
        if powers.get(weight.name)
        or (weight.is_vector and weight.name.endswith("weight") and weight.name.count(".") == 1)
    }
    vectors = {weight.name for weight in submodel.weights if weight.is_vector}
    doubtful = sorted(likely | vectors | {name for name, power in powers.items() if power})
    trials = itertools.chain.from_iterable(
        itertools.combinations(doubtful, size) for size in range(len(doubtful) + 1)
    )
    for changed in itertools.islice(trials, _MOST_SIGN_TRIALS):
        flips = frozenset(likely.symmetric_difference(changed))
        rules = {
            weight.name: TensorRule(powers.get(weight.name, 0), weight.name in flips)
            for weight in submodel.weights
        }
        if _close(_folded(submodel, rules, -1.0), wanted) and _close(
            _folded(submodel, rules, -0.7), _expected(submodel, -0.7)
        ):
            return flips
    return None
