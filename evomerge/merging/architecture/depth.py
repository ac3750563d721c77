"""The config of a merged model: the host's config with the new dtype, vocabulary and depth.

Where blocks are added, left out or moved, every setting of single layers (`layer_types`,
`first_k_dense_replace`, ...) follows them: layer i has the setting of the block that the first
source at position i comes from. Lists that transformers computes from a rule about positions are
written out in full first.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from evomerge.errors import RecipeError
from evomerge.merging.tokenizers.rows import MatchedRows
from evomerge.models.checkpoint import Checkpoint, text_section
from evomerge.models.stacks import PREDICTION_COUNTS, is_other_modality
from evomerge.recipe import Layer, Recipe

LAYER_COUNTS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "layers"),
    *("encoder_layers", "num_decoder_layers", "decoder_layers"),
)
"""Keys of configs with a number of blocks."""

_DTYPE_KEYS = ("torch_dtype", "dtype")

Column = list[Any]


def merged_config(
    recipe: Recipe, checkpoints: Mapping[str, Checkpoint], *, vocabulary: MatchedRows | None = None
) -> dict[str, Any]:
    """Return `config.json` of the merged model, whose `vocabulary` may be matched by token.

    Raises:
        RecipeError: the depth of a stack changes, and the config has no key for it; a parent's
            config lacks a setting of single layers that the host's has.
    """
    host = checkpoints[recipe.host]
    config = built_config(host)
    for prefix, layers in recipe.layers.items():
        if not in_place(prefix, layers, host):
            _write_depth(config, recipe, prefix, checkpoints)
    for section in (config, *(item for item in config.values() if isinstance(item, dict))):
        section.update({key: recipe.dtype for key in _DTYPE_KEYS if key in section})
    if not any(key in config for key in _DTYPE_KEYS):
        config["torch_dtype"] = recipe.dtype
    if vocabulary is not None:
        text = text_section(config)
        for key, value in {"vocab_size": vocabulary.size, **vocabulary.special_ids}.items():
            for target in [item for item in (config, text) if key in item] or [text]:
                target[key] = value
    return config


def built_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return `config.json` of a parent's model, without layers for multi-token prediction."""
    config: dict[str, Any] = copy.deepcopy(dict(checkpoint.config))
    if checkpoint.predictions:
        text = text_section(config)
        text.update({key: 0 for key in PREDICTION_COUNTS if text.get(key)})
    return config


def in_place(prefix: str, layers: Sequence[Layer], host: Checkpoint) -> bool:
    """Whether there are as many blocks as in the host, each led by a block of its own position."""
    leads = [source.layer for layer in layers for source in layer.sources[:1]]
    return leads == [*range(len(host.stacks.get(prefix, ())))]


def _write_depth(
    config: dict[str, Any], recipe: Recipe, prefix: str, checkpoints: Mapping[str, Checkpoint]
) -> None:
    layers, stacks = recipe.layers[prefix], checkpoints[recipe.host].stacks
    old, new, section = len(stacks[prefix]), len(layers), text_section(config)
    keys = count_keys(section, prefix, old, stacks)
    settings = {name: per_layer(item, prefix) for name, item in checkpoints.items()}
    if old != new and not keys and not settings[recipe.host]:
        raise RecipeError(
            f"layers.{prefix} has {new} blocks and the host has {old}, but no key of the host's "
            f"config.json gives this number; list {old} blocks."
        )
    for key in keys:
        section[key] = new
    for key in settings[recipe.host]:
        column = []
        for i, layer in enumerate(layers):
            lead = layer.sources[0]
            entries = settings[lead.parent].get(key)
            if entries is None:
                raise RecipeError(
                    f"layers.{prefix}[{i}]: the host's config has {key!r}, but that of "
                    f"{lead.parent!r} has not; use parents of one architecture."
                )
            column.append(entries[lead.layer or 0])
        section[key] = write_column(key, column)


def per_layer(checkpoint: Checkpoint, prefix: str) -> dict[str, Column]:
    """Return a parent's settings of single layers of a stack, also those that are computed."""
    count = len(checkpoint.stacks.get(prefix, checkpoint.decoder_stack))
    written = columns(checkpoint.text_config, count)
    return {**understood(checkpoint.text_config, kind_of_text(checkpoint), count), **written}


def understood(section: Mapping[str, Any], kind: Any, count: int) -> dict[str, Column]:
    """Return the settings of single layers as transformers understands a config, if it does.

    `CheckpointError`: it refuses the config.
    """
    from evomerge.merging.architecture.loading import is_known, transformers_config

    if not is_known(kind):
        return {}
    return columns(transformers_config({**section, "model_type": kind}).to_dict(), count)


def kind_of_text(checkpoint: Checkpoint) -> Any:
    """Return the model type of a checkpoint's language model."""
    return checkpoint.text_config.get("model_type", checkpoint.config.get("model_type"))


def count_keys(
    section: Mapping[str, Any], prefix: str, count: int, stacks: Iterable[str]
) -> list[str]:
    """Return the keys of a config that hold the number of blocks of a stack, one of `stacks`."""
    words = " ".join(name for name in stacks if not is_other_modality(name))
    keys = [key for key in LAYER_COUNTS if section.get(key) == count]
    if not ("encoder" in words and "decoder" in words):
        return keys
    if "decoder" in prefix:
        return [key for key in keys if "decoder" in key] or ["num_decoder_layers"]
    return [key for key in keys if "decoder" not in key and key != "num_hidden_layers"]


class KeyForm(NamedTuple):
    """How a value of type `kind` says something about each layer.

    `read` takes it and the number of layers, and returns the column; `write` takes this and returns
    the value. If no value says the same, `loadable` notices that.
    """

    kind: type | tuple[type, ...]
    read: Callable[[Any, int], Column]
    write: Callable[[Column], Any]


def columns(section: Mapping[str, Any], count: int) -> dict[str, Column]:
    """Return the columns of a config with `count` layers, by key."""
    by_key: dict[str, Column] = {}
    for key, value in section.items():
        form = _form_of(key)
        if form is not None and isinstance(value, form.kind):
            with suppress(TypeError, ValueError):  # its entries are of another form
                if len(column := form.read(value, count)) == count:
                    by_key[key] = column
    if "mlp_layer_types" in by_key:  # transformers then ignores the number that it replaces
        by_key = {key: column for key, column in by_key.items() if _FORMS.get(key) is not _FIRST}
    return by_key


def write_column(key: str, column: Column) -> Any:
    """Return the value of a key that has this column."""
    form = _form_of(key)
    return form.write(column) if form else column


def _form_of(key: str) -> KeyForm | None:
    return _FORMS.get(key) or (_LIST if "layer" in key and "index" not in key else None)


_SEQUENCE = (list, tuple)

# One entry for each layer.
_LIST = KeyForm(_SEQUENCE, lambda value, _: list(value), list)
# The positions of some layers.
_POSITIONS = KeyForm(
    _SEQUENCE,
    lambda value, count: [i in value for i in range(count)],
    lambda column: [i for i, chosen in enumerate(column) if chosen],
)
# The positions of some layers, which have adapters in this order.
_ORDINALS = _POSITIONS._replace(
    read=lambda value, count: [1 + value.index(i) if i in value else 0 for i in range(count)]
)
# How many layers at the start; how many at the end.
_FIRST = KeyForm(int, lambda value, count: [i < value for i in range(count)], sum)
_LAST = KeyForm(int, lambda value, count: [i >= count - value for i in range(count)], sum)
# Position -> entry, for some layers.
_MAPPING = KeyForm(
    Mapping,
    lambda value, count: [{str(k): v for k, v in value.items()}.get(str(i)) for i in range(count)],
    lambda column: {str(i): item for i, item in enumerate(column) if item is not None},
)
_FORMS = {
    "activation_sparsity_pattern": _LIST, "intermediate_size": _LIST, "moe_topk": _LIST,
    "num_experts": _LIST, "attn_layer_indices": _POSITIONS, "cross_attention_layers": _POSITIONS,
    "full_attn_idxs": _POSITIONS, "mlp_only_layers": _POSITIONS, "moe_layers": _POSITIONS,
    "first_k_dense_replace": _FIRST, "moe_layer_start_index": _FIRST, "num_dense_layers": _FIRST,
    "hybrid_layer_ids": _ORDINALS, "num_kv_shared_layers": _LAST, "per_layer_config": _MAPPING,
}  # fmt: skip
"""The form by key, where it is no list whose name has the word `layer`."""
