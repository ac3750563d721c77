"""What is private in transformers, or differs between its versions from 4.56 on."""

import inspect
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from evomerge.compat import need
from evomerge.compat import quiet as silence


@cache
def cache_arguments(kind: type[Any]) -> tuple[str, dict[str, int]]:
    """Return by which argument models of a class take a cache of keys and values.

    Behind it are the arguments with which they leave out all logits but those of the last position.
    """
    names = inspect.signature(kind.forward).parameters
    last = {"logits_to_keep": 1} if "logits_to_keep" in names else {}
    return "cache" if "cache" in names else "past_key_values", last


def longest_uniform_text(config: Any) -> float:
    """Return up to how many tokens texts are computed alike, alone or together; mostly infinity.

    `config` is that of the language model. With longrope (arXiv 2402.13753), the longest text of a
    batch decides with which factors all are computed, and keys that were cached before it passed
    the length have the other ones. With chunked attention, no token sees the chunk before its own.
    """
    changes = [getattr(config, "attention_chunk_size", None)]
    for name in ("rope_parameters", "rope_scaling"):  # of transformers 5 and 4
        table = getattr(config, name, None) or {}
        for rope in (table, *table.values()):  # one, or one for each type of layers
            kind = (rope.get("rope_type") or rope.get("type")) if isinstance(rope, dict) else None
            if kind == "longrope":
                key = "original_max_position_embeddings"
                known = list(filter(None, (rope.get(key), getattr(config, key, None))))
                changes += known or [config.max_position_embeddings]
    return min(filter(None, changes), default=math.inf)


def checkpoint_weights(model: Any) -> dict[str, Any]:
    """Return a model's weights with the names and shapes of its checkpoint.

    transformers 5 stacks, splits and renames tensors when it loads a checkpoint (experts, for
    example); that is reverted here. Older versions load tensors as they are.
    """
    state = model.state_dict()
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return dict(state)
    return dict(revert_weight_conversion(model, state))


def checkpointing_layers(model: Any) -> list[Any]:
    """Return the layers of a model whose activations can be computed again in a backward pass."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    if not getattr(model, "supports_gradient_checkpointing", False):
        return []
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def undivided_modules(model: Any) -> list[str]:
    """Return the classes of modules that must be whole on one device."""
    return sorted(getattr(model, "_no_split_modules", None) or ())


def unmoved_arguments(model: Any) -> Any:
    """Return the arguments that accelerate must not move between devices; None: all are moved."""
    return getattr(model, "_skip_keys_device_placement", None)


def generation_config_of(settings: dict[str, Any]) -> Any:
    """Return the generation config with these settings, as `from_pretrained` makes it of a file."""
    from transformers import GenerationConfig

    config: Any = GenerationConfig.from_dict(settings)
    config._original_object_hash = hash(config)  # transformers 4 reads it in `generate`
    return config


def keeps_settings_of_old_configs() -> bool:
    """Return whether a model takes the settings of generation that old `config.json` files have.

    Older versions of transformers do so themselves, when they build the model.
    """
    import transformers

    return not hasattr(transformers.GenerationMixin, "adjust_generation_fn")


@contextmanager
def compiling_chat_templates_by(compiled: Callable[[Any, str], Any]) -> Iterator[None]:
    """Within, transformers renders the chat templates that `compiled` returns.

    It gets transformers' own environment and the text of a template. Neither is changed, and
    afterwards transformers compiles templates itself again.
    """
    from transformers.utils import chat_template_utils as module

    name = "_compile_jinja_template"
    stock = need("transformers", module, name)
    environment = stock("").environment  # of an empty template, since compiling may take all memory
    setattr(module, name, lambda template: compiled(environment, template))
    try:
        yield
    finally:
        setattr(module, name, stock)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence messages of transformers and accelerate; callers check what they warn of."""
    from transformers.utils import logging as reports

    bars = reports.is_progress_bar_enabled()
    if bars:
        reports.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        silent = silence("transformers", "accelerate", level=logging.CRITICAL)
        with silent, warnings.catch_warnings(action="ignore"):
            yield
    finally:
        if bars:
            reports.enable_progress_bar()  # type: ignore[no-untyped-call]
