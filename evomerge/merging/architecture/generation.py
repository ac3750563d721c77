"""The generation config that a model has once transformers has loaded it from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers

from evomerge.errors import CheckpointError, one_line
from evomerge.merging.architecture.loading import model_class, quiet, transformers_config
from evomerge.merging.architecture.miniature import small_config
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


def why_not_generating(config: Mapping[str, Any], settings: Any) -> str | None:
    """Return why `generate` fails with a generation config, or None if it does not.

    A small model of this `config.json` with random weights is asked, so not every reason is found.
    """
    with torch.random.fork_rng(devices=[]), quiet(), torch.inference_mode():
        try:
            sizes = {**small_config(config), "vocab_size": config["vocab_size"]}
            small = transformers_config(sizes)
            model = model_class(small)(small).eval()
            model.generation_config = type(settings)()
            _generate(model)
        except Exception:  # it can be tried with the model itself only
            return None
        model.generation_config = settings
        try:
            _generate(model).tolist()
        except Exception as error:  # transformers raises anything for such settings
            return one_line(error)
    return None


def _generate(model: Any) -> Any:
    """Let a model generate a few tokens, with the arguments of lm-eval."""
    prompt = torch.tensor([[5, 6, 7, 5]])
    return model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_length=8,
        pad_token_id=0,
        use_cache=True,
        do_sample=False,
    )
