"""Folding scales on the hidden state into plain weights.

A recipe may multiply the hidden state by a scale before each block. Let c be the product of all
scales up to a block. Blocks add to the hidden state h, and the norm at their start ignores the size
of h. So the scaled model equals a plain model whose hidden state is g = h / c:

    h -> s h + branch(norm(s h))    becomes    g -> g + branch(norm(g) sign(c)) / c

Weights that write into the hidden state are divided by c. Weights that read it without a norm are
multiplied by c. Norms that read it change sign where c < 0. In exact arithmetic, only the epsilon
inside the norms makes a difference.

Which weights these are is not written down for any architecture. It is found on a miniature of the
model with random weights, and then checked on it by comparing outputs.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from evomerge.errors import CheckpointError, RecipeError
from evomerge.merging.architecture.miniature import (
    Miniature,
    NoMiniatureError,
    Submodel,
    WeightGroup,
    kind_of,
    language_config,
    multiplied,
)
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe

_TOLERANCE = 2e-4
"""Largest relative difference of two outputs that count as equal (they are float32)."""

_MOST_SIGN_TRIALS = 3000


@dataclass(frozen=True, slots=True)
class Rescaling:
    """What folding does to one tensor w: (w + offset) * factor - offset.

    `offset` is what the architecture adds to the weight before it uses it (1 in Gemma's norms).
    """

    factor: float
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class TensorRule:
    """How tensors of one kind depend on c, the product of all scales up to their block.

    They are multiplied by |c|^power, and by -1 if `flips` is set and c is negative. The power is -1
    for a tensor that writes into the hidden state, 1 for one that reads it without a norm, else 0.
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
        non_layer: rules by name of a tensor after the last block.
        allows_negative: whether negative products of scales can be folded.
    """

    inside: Mapping[str, TensorRule]
    non_layer: Mapping[str, TensorRule]
    allows_negative: bool


class UnfoldableError(Exception):
    """Scales cannot be folded into the weights of an architecture; the message says why."""


def fold_scales(recipe: Recipe, host: Checkpoint) -> dict[str, Rescaling]:
    """Return how each tensor of the merged model must be rescaled to fold the recipe's scales.

    They are by name in the merged model; tensors that do not change are not listed.

    Raises:
        RecipeError: a product of scales is too large, too small, 0, or negative where the
            architecture cannot fold that.
        CheckpointError: scales cannot be folded into the weights of this architecture.
    """
    rescalings: dict[str, Rescaling] = {}
    for prefix, layers in recipe.layers.items():
        if all(layer.scale == 1.0 for layer in layers):
            continue
        stack, rules = host.stacks[prefix], rules_for(host, prefix)
        suffixes = {suffix for block in stack.blocks for suffix in block}
        product = 1.0
        for position, layer in enumerate(layers):
            product *= layer.scale
            _check_product(product, rules, f"layers.{prefix}[{position}]")
            for suffix in suffixes:
                rule = rules.inside.get(kind_of(suffix))
                if rule is not None:
                    rescalings[stack.name(position, suffix)] = rule.at(product)
        rescalings.update((name, rule.at(product)) for name, rule in rules.non_layer.items())
    return {name: item for name, item in rescalings.items() if item.factor != 1.0}


def _check_product(product: float, rules: FoldingRules, where: str) -> None:
    told = f"{where}: the scales up to here multiply to {product:g}, "
    if not 1e-6 < abs(product) < 1e6:
        raise RecipeError(
            f"{told}and weights are divided by this; use scales whose products stay between 1e-6 "
            "and 1e6."
        )
    if product < 0 and not rules.allows_negative:
        raise RecipeError(
            f"{told}but only positive products can be folded into the weights of this "
            "architecture; use scales above 0."
        )


def check_foldable(host: Checkpoint, prefix: str, *, negative: bool = False) -> None:
    """Check, before a search starts, that scales between the blocks of a stack can be folded.

    `negative` is whether scales below 0 are searched.

    Raises:
        CheckpointError: they cannot; the message says which setting is possible.
    """
    rules = rules_for(host, prefix)
    if negative and not rules.allows_negative:
        raise CheckpointError(
            f"space.scales allows negative scales, which cannot be folded into the weights of "
            f"{host.reference!r}; give a range above 0, for example [0.5, 1.5]."
        )


def rules_for(host: Checkpoint, prefix: str) -> FoldingRules:
    """Return the folding rules for a stack of a checkpoint.

    Raises:
        CheckpointError: scales cannot be folded into this architecture's weights.
    """
    try:
        return find_rules(language_config(host), prefix.rpartition(".")[2])
    except (UnfoldableError, NoMiniatureError) as error:
        raise CheckpointError(
            f"The hidden state of {host.reference!r} cannot be scaled between blocks: {error}; "
            "set `space.scales: 1.0`, which searches paths without scales."
        ) from None


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
        non_layer = {
            weight.name: TensorRule(0, True, weight.offset)
            for weight in tail.weights
            if weight.name in (flips or ())
        }
    used = {name: rule for name, rule in inside.items() if rule.power or rule.flips}
    return FoldingRules(used, non_layer, allows_negative)


def _expected(submodel: Submodel, product: float) -> Tensor:
    """Return what the submodel must return with weights folded for the product c: f(c x) / c."""
    return submodel.run(submodel.state * product) / product**submodel.degree


def _folds(
    submodel: Submodel, rules: Mapping[str, TensorRule], product: float, wanted: Tensor
) -> bool:
    """Whether the submodel does return it."""
    pairs = [(w, rules[w.name].at(product).factor) for w in submodel.weights if w.name in rules]
    with multiplied(pairs):
        found = submodel.run(submodel.state)
    return bool((found - wanted).norm() <= _TOLERANCE * wanted.norm())


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
    later_first = submodel.weights[::-1]
    for weight in sorted(later_first, key=lambda weight: weight.is_vector):
        column = changed(weight)
        residual = column
        for direction in basis:
            residual = residual - (residual @ direction) * direction
        if residual.norm() > 1e-2 * column.norm() and column.norm() > 1e-3 * result.norm():
            basis.append(residual / residual.norm())
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
    if not _folds(submodel, rules, product, _expected(submodel, product)):
        raise UnfoldableError(f"no change of its weights has the effect of {what}")


def _find_flips(submodel: Submodel, powers: Mapping[str, int]) -> frozenset[str] | None:
    """Return which kinds of tensors change sign with c, or None if no subset of them is right."""
    wanted = {product: _expected(submodel, product) for product in (-1.0, -0.7)}
    likely = {
        weight.name
        for weight in submodel.weights
        if powers.get(weight.name)
        or (weight.is_vector and weight.name.endswith("weight") and weight.name.count(".") == 1)
    }
    vectors = {weight.name for weight in submodel.weights if weight.is_vector}
    doubtful = sorted(likely | vectors)
    trials = itertools.chain.from_iterable(
        itertools.combinations(doubtful, size) for size in range(len(doubtful) + 1)
    )
    for changed in itertools.islice(trials, _MOST_SIGN_TRIALS):
        flips = frozenset(likely.symmetric_difference(changed))
        rules = {
            weight.name: TensorRule(powers.get(weight.name, 0), weight.name in flips)
            for weight in submodel.weights
        }
        if all(_folds(submodel, rules, product, wanted[product]) for product in wanted):
            return flips
    return None
