"""Checking that transformers loads a model as it is: no tensor missing, and none left over.

transformers only warns about a missing weight, and makes a random one. Where blocks are moved, a
config may ask for other tensors at a position than the block there has. So transformers loads
tensors without content (on the device `meta`) into the model of the config, and says what does not
fit.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evomerge.errors import CheckpointError, RecipeError, printable
from evomerge.merging.architecture.depth import LAYER_COUNTS, in_place, kind_of_text, understood
from evomerge.merging.tokenizers.rows import MatchedRows
from evomerge.models.checkpoint import Checkpoint, text_section
from evomerge.models.correspondence import TensorNameMap
from evomerge.recipe import Layer, Recipe

if TYPE_CHECKING:
    from evomerge.merging.architecture.loading import Faults

_MOST_LAYERS = 10_000
_LONGEST = 400  # characters of a message of transformers


def check_buildable(checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    """Check that transformers builds a parent's model, and that its weights fit into it.

    Tensors that the model has no place for are allowed, since old checkpoints hold buffers, but not
    whole blocks of them. `config` is the parent's `config.json`, as the merged model has it.
    `CheckpointError`: it cannot be built, a weight is missing, or one has another shape.
    """
    try:
        misfit = _misfit(checkpoint.original or checkpoint, config)
    except CheckpointError as error:
        misfit = str(error).rstrip(".")
    if misfit:
        raise CheckpointError(
            f"Parent {checkpoint.reference!r}: {printable(misfit, _LONGEST)}; copy config.json "
            "from its base model."
        )


def _misfit(stored: Checkpoint, config: Mapping[str, Any]) -> str:
    """Return what of a checkpoint's weights does not fit into the model of a config, or ""."""
    for section in (config, *(item for item in config.values() if isinstance(item, Mapping))):
        for key in LAYER_COUNTS:  # a config class may make lists of this length
            count = section.get(key)
            if isinstance(count, (int, float)) and not 0 <= count <= _MOST_LAYERS:
                return f"config.json has {key!r} {count:.6g}; allowed are 1 to {_MOST_LAYERS:,}"
    faults = _faults(config, stored)
    for name, (own, wanted) in sorted(faults.mismatched.items()):
        return f"{name!r} has the shape {list(own)}, the model of config.json needs {list(wanted)}"
    for prefix, stack in stored.language.items():
        for layer, block in enumerate(stack.blocks):
            if faults.unexpected.issuperset(stack.name(layer, suffix) for suffix in block):
                return f"{prefix} has {len(stack)} blocks, but config.json has no block {layer}"
    missing = min(faults.missing, default="")
    return f"it lacks the weight {missing!r} of config.json (it would be random)" * bool(missing)


def _faults(config: Mapping[str, Any], checkpoint: Checkpoint) -> Faults:
    from evomerge.merging.architecture.loading import Loader

    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    return Loader.of(config, {}).find_faults(shapes)


def check_loadable(
    config: Mapping[str, Any],
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    vocabulary: MatchedRows | None = None,
) -> None:
    """Check that a model whose blocks are not where the host has them loads completely.

    One whose class the installed transformers does not have is not checked, and what already does
    not fit in the parents' own models does not count.

    Raises:
        RecipeError: a tensor is missing, left over, or of another shape than the config asks for,
            or transformers refuses or changes the config.
    """
    host, stacks = checkpoints[recipe.host], recipe.layers.items()
    moved = {prefix: them for prefix, them in stacks if not in_place(prefix, them, host)}
    if not moved:
        return
    from evomerge.merging.architecture.loading import Loader

    try:
        Loader.of(host.config, {})
    except CheckpointError:
        return
    leads = {layer.sources[0].parent for layers in moved.values() for layer in layers}
    fits = {name: TensorNameMap(host, checkpoints[name]) for name in leads}
    try:
        for prefix, layers in moved.items():
            _check_settings(config, prefix, layers, fits)
        shapes = dict(_merged_shapes(host, moved, fits, vocabulary))
        faults = Loader.of(config, {}).find_faults(shapes)
    except CheckpointError as error:
        raise RecipeError(f"{', '.join(moved)} cannot have this order: {error}") from error

    misfits = set(itertools.chain(*faults))
    models = [checkpoints[name] for name in {recipe.host, *leads}] if misfits else []
    old = {_kind(name) for item in models for name in itertools.chain(*_faults(item.config, item))}
    for name in sorted(misfits, key=lambda it: (it not in faults.missing, it)):
        if _kind(name) not in old:
            own, wanted = map(list, faults.mismatched.get(name, ((), ())))
            shapes_differ = f" (of shape {wanted}, not {own})" if wanted else ""
            verb = "has no place for" if name in faults.unexpected else "needs"
            raise RecipeError(
                f"{', '.join(moved)} cannot have this order: a {config.get('model_type')} {verb} "
                f"the tensor {name!r}{shapes_differ}; take other blocks, or as many as the host."
            )


def _kind(name: str) -> str:
    """Return the name of a tensor without the positions of blocks."""
    return re.sub(r"\.\d+(?=\.)", "", name)


def _check_settings(
    config: Mapping[str, Any],
    prefix: str,
    layers: Sequence[Layer],
    fits: Mapping[str, TensorNameMap],
) -> None:
    """Check that transformers understands the settings of each layer as in its parent."""
    parents = {}
    for name, fit in fits.items():
        parent, count = fit.parent, len(fit.stacks[prefix])
        parents[name] = understood(parent.text_config, kind_of_text(parent), count)
    kind = kind_of_text(next(iter(fits.values())).host)
    for key, column in understood(text_section(config), kind, len(layers)).items():
        for i, layer in enumerate(layers):
            lead = layer.sources[0]
            setting = parents[lead.parent].get(key, column)[lead.layer or 0]
            if column[i] != setting:
                raise RecipeError(
                    f"layers.{prefix}[{i}]: block {lead.layer} of {lead.parent!r} has {setting!r} "
                    f"in {key!r}, and a {kind} has {column[i]!r} there; put another one."
                )


def _merged_shapes(
    host: Checkpoint,
    moved: Mapping[str, Sequence[Layer]],
    fits: Mapping[str, TensorNameMap],
    vocabulary: MatchedRows | None,
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every tensor of the merged model."""
    for name, info in host.tensors.items():
        if not any(name.startswith(f"{prefix}.") for prefix in moved):
            by_token = vocabulary is not None and name in host.token_tensors
            rows = (vocabulary.size,) if vocabulary and by_token else info.shape[:1]
            yield name, (*rows, *info.shape[1:])
    for prefix, layers in moved.items():
        for position, layer in enumerate(layers):
            lead = layer.sources[0]
            fit, index = fits[lead.parent], lead.layer or 0
            for suffix in fit.block(prefix, index, position):
                name_there = fit.inside(prefix, index, suffix)
                if name_there is not None:
                    name = host.stacks[prefix].name(position, suffix)
                    yield name, fit.parent.tensors[name_there].shape
