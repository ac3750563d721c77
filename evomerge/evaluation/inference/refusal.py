"""Refusing a model that cannot be run even in the plain way, that of lm-eval."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from evomerge.errors import ConfigError, EvomergeError, one_line
from evomerge.evaluation.inference.generation_config import unsupported_setting
from evomerge.evaluation.inference.memory import is_device_failure, is_exhausted


@contextmanager
def refusing(model: Any) -> Iterator[None]:
    """Turn an error of a plain run of the model into a sentence, since no other way is left.

    Raises:
        ConfigError: the block raises anything but an error of evomerge, a lack of memory, or the
            failure of a device.
    """
    try:
        yield
    except EvomergeError:
        raise
    except Exception as error:  # transformers raises anything for settings that it cannot use
        exhausted = isinstance(error, RuntimeError) and is_exhausted(error)
        if exhausted or is_device_failure(error):
            raise
        setting = unsupported_setting(model.generation_config)
        also = "" if setting is None else f", which sets {setting!r} in generation_config.json,"
        raise ConfigError(
            f"objectives: lm-eval cannot score the host{also} on the tasks "
            f"({type(error).__name__}: {one_line(error).rstrip('.')}); correct config.json, "
            "generation_config.json or the tokenizer of the host, or the task's generation_kwargs."
        ) from error
