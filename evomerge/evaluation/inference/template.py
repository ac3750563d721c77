"""Rendering chat templates, which come with a model: they may fail or never end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evomerge.errors import ConfigError
from evomerge.evaluation.inference.limits import RefusedError, limited

SECONDS = 20.0
"""Largest time for the prompt of one document; real templates take less than a millisecond."""


def bounded(apply: Callable[..., str]) -> Callable[..., str]:
    """Return a function that renders chats, with limits on time and memory.

    Args:
        apply: what renders a chat, `HFLM.apply_chat_template`.

    Returns:
        A function with the same arguments, which raises a ConfigError if the template fails, or
        reaches a limit.
    """

    def render(*arguments: Any, **options: Any) -> str:
        try:
            return limited(lambda: apply(*arguments, **options), SECONDS)
        except RefusedError as reason:
            raise ConfigError(
                f"The chat template of the model cannot be used ({reason}); correct it in the "
                "folder of the parent that it comes from, or set evaluation.chat_template to false."
            ) from None

    return render
