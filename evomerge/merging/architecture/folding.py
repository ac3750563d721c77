"""Folding scales on the hidden state into plain weights.

A recipe may multiply the hidden state by a scale before each block. Let c be the product of all
scales up to a block. Blocks add to the hidden state h, and the norm at their start ignores the size
of h. So the scaled model equals a plain model whose hidden state is g = h / c:

    h -> s h + branch(norm(s h))    becomes    g -> g + branch(norm(g)) / c

Weights that write into the hidden state are divided by c; those that read it without a norm are
multiplied by c. Which these are is found on a miniature of the model with random weights, and then
checked on it by comparing outputs.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from evomerge.errors import CheckpointError, RecipeError
from evomerge.merging.architecture.miniature import (
    ArchitectureError,
    Miniature,
    Submodel,
    WeightGroup,
    kind_of,
    language_config,
    multiplied,
)
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe

_STEP = 0.02  # of derivatives
_TOLERANCE = 2e-4
"""Largest relative difference of two outputs that count as equal (they are float32)."""


class Rescaling(NamedTuple):
    """What folding does to one tensor w: (w + offset) * factor - offset.

    `offset` is what the architecture adds to the weight before it uses it (1 in Gemma's norms).
    """

    factor: float
    offset: float = 0.0


class TensorRule(NamedTuple):
    """How tensors of one kind depend on c, the product of all scales up to their block.

    They are multiplied by c^power. The power is -1 for a tensor that writes into the hidden state,
    1 for one that reads it without a norm, else 0.
    """

    power: int
    offset: float = 0.0

    def at(self, product: float) -> Rescaling:
        """Return the rescaling for one value of c."""
        return Rescaling(product**self.power, self.offset)


def fold_scales(recipe: Recipe, host: Checkpoint) -> dict[str, Rescaling]:
    """Return how tensors of the merged model are rescaled to fold the recipe's scales, by name.

    Raises:
        RecipeError: a product of scales is too large, too small or not above 0.
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
            if not 1e-6 < product < 1e6:
                raise RecipeError(
                    f"layers.{prefix}[{position}]: the scales up to here multiply to {product:g}; "
                    "use scales whose products stay between 1e-6 and 1e6."
                )
            for suffix in suffixes:
                rule = rules.get(kind_of(suffix))
                if rule is not None:
                    rescalings[stack.name(position, suffix)] = rule.at(product)
    return {name: item for name, item in rescalings.items() if item.factor != 1.0}


def rules_for(host: Checkpoint, prefix: str) -> Mapping[str, TensorRule]:
    """Return the folding rules for a stack of a checkpoint; `CheckpointError` if there are none."""
    try:
        return find_rules(language_config(host), prefix.rpartition(".")[2])
    except ArchitectureError as error:
        raise CheckpointError(
            f"The hidden state of {host.reference!r} cannot be scaled between blocks: {error}; "
            "set `space.scales: 1.0`, which searches paths without scales."
        ) from error


@lru_cache(maxsize=16)
def find_rules(config: str, stack: str) -> Mapping[str, TensorRule]:
    """Find the folding rules of an architecture, with a miniature that has random weights.

    Scales can be folded into a block f with weights w if f(c x; w) / c = f(x; folded w), where each
    w_p is multiplied by c^(e_p). The derivative of this equation at c = 1 is linear in the powers:
    f'(x) x - f(x) = sum_p e_p f'(w_p) w_p. Least squares over all outputs gives the powers, which
    are rounded to -1, 0 or 1 and checked at c = 2.5.

    `config` is the `config.json` of a text model, as JSON text, and `stack` the last word of the
    name of its block stack. The rules are by kind of tensor in a block (see `kind_of`).

    Raises:
        ArchitectureError: there are no such rules, or the miniature cannot be made.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        model = Miniature(json.loads(config), stack)
        rules: dict[str, TensorRule] = {}
        for block in model.blocks():
            of_block = _find_rules(block)
            _check(block, of_block, "a scale of 2.5")
            for name, rule in of_block.items():
                if rules.setdefault(name, rule) != rule:
                    raise ArchitectureError(f"its blocks need {name!r} folded in different ways")
        _check(model.tail(), {}, "a scale of 2.5 after the last block")
    return {name: rule for name, rule in rules.items() if rule.power}


def _check(submodel: Submodel, rules: Mapping[str, TensorRule], what: str) -> None:
    """Raise `ArchitectureError` unless the rules fold a scale of 2.5, called `what`."""
    product = 2.5
    wanted = submodel.run(submodel.state * product) / product**submodel.degree
    with multiplied([(it, rules[it.name].at(product).factor) for it in submodel.weights]):
        result = submodel.run(submodel.state)
    if not (result - wanted).norm() <= _TOLERANCE * wanted.norm():
        raise ArchitectureError(f"no change of its weights has the effect of {what}")


def _derivative(value: Callable[[float], Tensor]) -> Tensor:
    """Return the derivative of a function at 1 by the five-point rule."""
    near = value(1 + _STEP) - value(1 - _STEP)
    far = value(1 + 2 * _STEP) - value(1 - 2 * _STEP)
    return (8 * near - far) / (12 * _STEP)


def _find_rules(submodel: Submodel) -> dict[str, TensorRule]:
    """Solve for the powers of all kinds of tensors.

    Where one of several tensors could be multiplied (the value or the output matrix of attention),
    matrices are preferred to vectors, and tensors that are registered later to earlier ones.
    """

    def changed(weight: WeightGroup) -> Tensor:
        def value(factor: float) -> Tensor:
            with multiplied([(weight, factor)]):
                return submodel.run(submodel.state)

        return _derivative(value).flatten()

    result = submodel.run(submodel.state).flatten()
    wanted = _derivative(lambda factor: submodel.run(submodel.state * factor).flatten()) - result
    chosen: list[tuple[WeightGroup, Tensor]] = []
    basis: list[Tensor] = []
    later_first = submodel.weights[::-1]
    for weight in sorted(later_first, key=lambda weight: weight.views[0].dim() == 1):
        residual = column = changed(weight)
        for direction in basis:
            residual = residual - (residual @ direction) * direction
        if residual.norm() > 1e-2 * column.norm() and column.norm() > 1e-3 * result.norm():
            basis.append(residual / residual.norm())
            chosen.append((weight, column))
    rules = {weight.name: TensorRule(0, weight.offset) for weight in submodel.weights}
    if chosen:
        matrix = torch.stack([column for _, column in chosen], dim=1)
        solution = torch.linalg.lstsq(matrix, wanted[:, None]).solution[:, 0]
        for (weight, _), value in zip(chosen, solution.tolist(), strict=True):
            rules[weight.name] = TensorRule(max(-1, min(1, round(value))), weight.offset)
    return rules
