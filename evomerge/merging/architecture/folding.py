"""Folding scales on the hidden state into plain weights.

A recipe may multiply the hidden state by a scale before each block. Let c be the product of all
scales up to a block. Blocks add to the hidden state h, and the norm at their start ignores the size
of h. So the scaled model equals a plain model whose hidden state is g = h / c:

    h -> s h + branch(norm(s h))    becomes    g -> g + branch(norm(g) sign(c)) / c

Weights that write into the hidden state are divided by c. Weights that read it without a norm are
multiplied by c. Norms that read it change sign where c < 0. `folding_rules` finds which weights
these are. In exact arithmetic, only the epsilon inside the norms makes a difference.
"""

from __future__ import annotations

from evomerge.errors import CheckpointError, RecipeError
from evomerge.merging.architecture.folding_rules import (
    FoldingRules,
    Rescaling,
    UnfoldableError,
    find_rules,
)
from evomerge.merging.architecture.miniature import language_config
from evomerge.merging.architecture.submodel import NoMiniatureError, kind_of
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe


def fold_scales(recipe: Recipe, host: Checkpoint) -> dict[str, Rescaling]:
    """Return how each tensor of the merged model must be rescaled to fold the recipe's scales.

    Args:
        recipe: what is built; its blocks may have scales.
        host: the checkpoint of the recipe's host.

    Returns:
        the rescalings by name in the merged model; tensors that do not change are not listed.

    Raises:
        RecipeError: a product of scales is too large, too small, 0, or negative where the
            architecture cannot fold that.
        CheckpointError: scales cannot be folded into the weights of this architecture.
    """
    rescalings: dict[str, Rescaling] = {}
    for prefix, layers in recipe.layers.items():
        if all(layer.scale == 1.0 for layer in layers):
            continue
        stack = host.stacks[prefix]
        rules = rules_for(host, prefix)
        rests = {rest for block in stack.blocks for rest in block}
        product = 1.0
        for position, layer in enumerate(layers):
            product *= layer.scale
            _check_product(product, rules, prefix, position)
            for rest in rests:
                rule = rules.inside.get(kind_of(rest))
                if rule is not None:
                    rescalings[stack.name(position, rest)] = rule.at(product)
        rescalings.update((name, rule.at(product)) for name, rule in rules.outside.items())
    return {name: item for name, item in rescalings.items() if item.factor != 1.0}


def _check_product(product: float, rules: FoldingRules, prefix: str, position: int) -> None:
    if not 1e-6 < abs(product) < 1e6:
        raise RecipeError(
            f"layers.{prefix}[{position}]: the scales up to here multiply to {product:g}, and "
            "weights are divided by this; use scales whose products stay between 1e-6 and 1e6."
        )
    if product < 0 and not rules.allows_negative:
        raise RecipeError(
            f"layers.{prefix}[{position}]: the scales up to here multiply to {product:g}, but only "
            "positive products can be folded into the weights of this architecture; use scales "
            "above 0."
        )


def check_foldable(host: Checkpoint, prefix: str, *, negative: bool = False) -> None:
    """Check, before a search starts, that scales between the blocks of a stack can be folded.

    Args:
        host: the host of the search.
        prefix: the block stack.
        negative: whether scales below 0 are searched.

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
