"""Scales on the hidden state, folded into plain weights: c(i) is the product of the scales so far.

Where blocks add to the hidden state what they compute from its direction, a model whose state is
scaled between blocks equals a plain model whose state is the scaled one divided by c:

    h -> s h + branch(norm(s h))    becomes    g -> g + branch(norm(g) sign(c)) / c,   h = c g

so what writes into the state is divided by c, what reads it without a norm is multiplied by c,
and norms that read it change sign where c < 0. Which tensors these are is not written down for
any architecture: it is found on a miniature of the model with random weights (see `probe`), and
then checked there, number against number. What is left in exact arithmetic is the norms' epsilon.
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
from evomerge.merge.architecture.miniature import (
    Miniature,
    NoMiniatureError,
    Part,
    Weight,
    kind_of,
    times,
)
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe

_TOLERANCE = 2e-4
_MOST_SIGN_TRIALS = 3000


@dataclass(frozen=True, slots=True)
class Fold:
    """What folding does to one tensor w: (w + offset) * factor - offset.

    Attributes:
        factor: multiplies the tensor.
        offset: what the architecture adds to the weight before it multiplies (1 in Gemma's norms).
    """

    factor: float
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Action:
    """How a kind of tensor follows the running product c: |c|^power, and the sign of c or not.

    Attributes:
        power: -1 where it writes into the hidden state, 1 where it reads it bare, else 0.
        flips: whether it changes sign with c.
        offset: see `Fold`.
    """

    power: int
    flips: bool
    offset: float = 0.0

    def at(self, product: float) -> Fold:
        """Return the fold for one value of c."""
        sign = -1.0 if self.flips and product < 0 else 1.0
        return Fold(sign * abs(product) ** self.power, self.offset)


@dataclass(frozen=True)
class Rule:
    """What folding does to the tensors of an architecture.

    Attributes:
        inside: kind of tensor within a block (digits written `*`) -> action; others stay.
        outside: name of a tensor outside of the blocks -> action; others stay.
        signs: whether negative products can be folded.
    """

    inside: Mapping[str, Action]
    outside: Mapping[str, Action]
    signs: bool


def fold(recipe: Recipe, host: Checkpoint) -> dict[str, Fold]:
    """Return what folding the recipe's scales does to the tensors of the merged model.

    Args:
        recipe: its blocks may have scales.
        host: the checkpoint of the recipe's host.

    Returns:
        merged tensor name -> fold, for the tensors that change.

    Raises:
        RecipeError: the architecture cannot fold scales, or a scale is 0.
    """
    folds: dict[str, Fold] = {}
    for prefix, layers in recipe.layers.items():
        if all(layer.scale == 1.0 for layer in layers):
            continue
        stack = host.stacks[prefix]
        rule = rule_of(host, prefix)
        rests = {rest for block in stack.blocks for rest in block}
        product = 1.0
        for position, layer in enumerate(layers):
            product *= layer.scale
            _check_product(product, rule, prefix, position)
            for rest in rests:
                action = rule.inside.get(kind_of(rest))
                if action is not None:
                    folds[stack.name(position, rest)] = action.at(product)
        folds.update((name, action.at(product)) for name, action in rule.outside.items())
    return {name: item for name, item in folds.items() if item.factor != 1.0}


def _check_product(product: float, rule: Rule, prefix: str, position: int) -> None:
    if not 1e-6 < abs(product) < 1e6:
        raise RecipeError(
            f"layers.{prefix}[{position}]: the scales up to here multiply to {product:g}; allowed "
            "are products between 1e-6 and 1e6, for weights are divided by them."
        )
    if product < 0 and not rule.signs:
        raise RecipeError(
            f"layers.{prefix}[{position}]: the scales up to here multiply to {product:g}, and this "
            "architecture folds positive ones only; use scales above 0."
        )


def check_foldable(host: Checkpoint, prefix: str, *, negative: bool = False) -> None:
    """Check, before any compute, that scales on a stack's hidden state can be exported.

    Args:
        host: the host of the search.
        prefix: the block stack.
        negative: whether scales below 0 are searched.

    Raises:
        CheckpointError: they cannot; with what is possible.
    """
    rule = rule_of(host, prefix)
    if negative and not rule.signs:
        raise CheckpointError(
            f"space.scales allows negative scales, which cannot be folded into the weights of "
            f"{host.reference!r}; give a range above 0, for example [0.5, 1.5]."
        )


def rule_of(host: Checkpoint, prefix: str) -> Rule:
    """Return the folding rule of a checkpoint's stack, found once per config.

    Raises:
        CheckpointError: scales cannot be folded into this architecture's weights.
    """
    data = {**host.text_config, "architectures": host.config.get("architectures")}
    if host.text_config is not host.config:
        data["architectures"] = None
    try:
        return probe(json.dumps(data, sort_keys=True), prefix.rpartition(".")[2])
    except (_UnfoldableError, NoMiniatureError) as error:
        raise CheckpointError(
            f"The hidden state of {host.reference!r} cannot be scaled between blocks: {error}; "
            "set `space.scales: 1.0`, which searches paths without scales."
        ) from None


class _UnfoldableError(Exception):
    """Why an architecture cannot fold scales."""


@lru_cache(maxsize=16)
def probe(config: str, stack: str) -> Rule:
    """Find the folding rule of an architecture on a miniature with random weights.

    A block f with weights w folds if f(c x; w) / c = f(x; w folded by c). Its derivative at c = 1
    is linear in the unknown powers e: f'(x) x - f(x) = sum_p e_p f'(w_p) w_p. The powers are solved
    from that equation over many outputs, must be -1, 0 or 1, and are then checked at c = 2.5.
    Signs are found by trial at c = -1, the likeliest first, and checked at c = -0.7.

    Args:
        config: `config.json` of a causal language model, as JSON text.
        stack: last word of the name of its block stack (`layers`, `h`).

    Raises:
        _UnfoldableError: no such rule exists.
        NoMiniatureError: none can be made.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        model = Miniature(json.loads(config), stack)
        inside: dict[str, Action] = {}
        signs = True
        for block in model.blocks():
            powers = _powers(block)
            _agree(block, powers, 2.5, "a scale of 2.5")
            flips = _flips(block, powers)
            signs = signs and flips is not None
            for weight in block.weights:
                name = weight.name
                action = Action(powers[name], name in (flips or ()), weight.offset)
                if inside.setdefault(name, action) != action:
                    raise _UnfoldableError(f"its blocks need {name!r} folded in different ways")
        tail = model.tail()
        _agree(tail, {}, 2.5, "a scale of 2.5 after the last block")
        flips = _flips(tail, {})
        signs = signs and flips is not None
        outside = {
            weight.name: Action(0, True, weight.offset)
            for weight in tail.weights
            if weight.name in (flips or ())
        }
    acting = {name: action for name, action in inside.items() if action.power or action.flips}
    return Rule(acting, outside, signs)


def _scaled(part: Part, product: float) -> Tensor:
    """What the folded part must give: f(c x) / c."""
    return part.run(part.state * product) / product**part.degree


def _folded(part: Part, actions: Mapping[str, Action], product: float) -> Tensor:
    """What the folded part gives."""
    with times(
        [
            (weight, actions[weight.name].at(product).factor)
            for weight in part.weights
            if weight.name in actions
        ]
    ):
        return part.run(part.state)


def _near(one: Tensor, two: Tensor) -> bool:
    return bool((one - two).norm() <= _TOLERANCE * two.norm())


def _slope(value: Callable[[float], Tensor], step: float = 0.02) -> Tensor:
    """Derivative at 1 by the five-point rule (the norms compute in float32 whatever they get)."""
    near = value(1 + step) - value(1 - step)
    far = value(1 + 2 * step) - value(1 - 2 * step)
    return (8 * near - far) / (12 * step)


def _powers(part: Part) -> dict[str, int]:
    """Solve the powers of all kinds of tensors.

    Where several would do (a value matrix for an output matrix), matrices come before vectors and
    the last registered before the others.
    """

    def changed(weight: Weight) -> Tensor:
        def value(factor: float) -> Tensor:
            with times([(weight, factor)]):
                return part.run(part.state)

        return _slope(value).flatten()

    result = part.run(part.state).flatten()
    wanted = _slope(lambda factor: part.run(part.state * factor).flatten()) - result
    columns: list[Tensor] = []
    basis: list[Tensor] = []
    chosen: list[Weight] = []
    matrices = [weight for weight in part.weights if not weight.is_vector]
    vectors = [weight for weight in part.weights if weight.is_vector]
    for weight in (*reversed(matrices), *reversed(vectors)):
        column = changed(weight)
        rest = column
        for direction in basis:
            rest = rest - (rest @ direction) * direction
        if rest.norm() > 1e-2 * column.norm() and column.norm() > 1e-3 * result.norm():
            basis.append(rest / rest.norm())
            columns.append(column)
            chosen.append(weight)
    powers = dict.fromkeys((weight.name for weight in part.weights), 0)
    if columns:
        matrix = torch.stack(columns, dim=1)
        solution = torch.linalg.lstsq(matrix, wanted[:, None]).solution[:, 0]
        for weight, value in zip(chosen, solution.tolist(), strict=True):
            powers[weight.name] = max(-1, min(1, round(value)))
    return powers


def _agree(part: Part, powers: Mapping[str, int], product: float, what: str) -> None:
    actions = {name: Action(power, False) for name, power in powers.items()}
    if not _near(_folded(part, actions, product), _scaled(part, product)):
        raise _UnfoldableError(f"no change of its weights stands for {what}")


def _flips(part: Part, powers: Mapping[str, int]) -> frozenset[str] | None:
    """Return which kinds of tensors change sign with c, or None where no choice is right."""
    wanted = _scaled(part, -1.0)
    likely = {
        weight.name
        for weight in part.weights
        if powers.get(weight.name)
        or (weight.is_vector and weight.name.endswith("weight") and weight.name.count(".") == 1)
    }
    vectors = {weight.name for weight in part.weights if weight.is_vector}
    doubtful = sorted(likely | vectors | {name for name, power in powers.items() if power})
    trials = itertools.chain.from_iterable(
        itertools.combinations(doubtful, size) for size in range(len(doubtful) + 1)
    )
    for changed in itertools.islice(trials, _MOST_SIGN_TRIALS):
        flips = frozenset(likely.symmetric_difference(changed))
        actions = {
            weight.name: Action(powers.get(weight.name, 0), weight.name in flips)
            for weight in part.weights
        }
        if _near(_folded(part, actions, -1.0), wanted) and _near(
            _folded(part, actions, -0.7), _scaled(part, -0.7)
        ):
            return flips
    return None
