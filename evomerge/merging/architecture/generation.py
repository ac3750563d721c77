"""The generation config that a model has once transformers has loaded it from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers

from evomerge.errors import CheckpointError, one_line
from evomerge.merging.architecture.loading import quiet
from evomerge.parsing.texts import json_value


def generation_config(config: Mapping[str, Any], generation: str | None) -> Any:
    """Return the generation config of a checkpoint, or None if its model class has made it already.

    Args:
        config: its `config.json`.
        generation: text of its `generation_config.json`; None: it has none. transformers then takes
            the settings of old models, which are in `config.json`.

    Raises:
        CheckpointError: transformers refuses a setting.
    """
    made = transformers.GenerationConfig
    file = "config.json" if generation is None else "generation_config.json"
    settings: Any = None if generation is None else json_value(generation, file, CheckpointError)
    if generation is None and not hasattr(transformers.GenerationMixin, "adjust_generation_fn"):
        return None  # older versions keep them in the config
    try:
        with quiet():
            if generation is not None:
                return made.from_dict(settings)
            return made.from_model_config(dict(config))
    except Exception as error:  # transformers raises anything for values that it does not expect
        raise CheckpointError(
            f"The host's {file} has a setting of generation that transformers refuses "
            f"({one_line(error).rstrip('.')}); remove it there."
        ) from error
