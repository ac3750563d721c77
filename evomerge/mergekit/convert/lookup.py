"""What a conversion asks about the models of a config. It works without an answer, too."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from evomerge.errors import CheckpointError
from evomerge.models.causal import TEMPLATE_FILES, has_chat_template
from evomerge.models.references import folder_with
from evomerge.models.safetensors import read_json

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_TOKENIZER_FILES = ["tokenizer_config.json", *TEMPLATE_FILES]


class Lookup(Protocol):
    """Answers questions about models; None if the answer is not known."""

    def layers(self, model: str) -> int | None:
        """Return the number of blocks of a model."""
        ...

    def chat_template(self, model: str) -> bool | None:
        """Whether the tokenizer of a model has a chat template."""
        ...


class ModelFiles:
    """Reads the config files of local models; of a model on the Hub, only these are downloaded.

    Args:
        relative_to: folder that relative paths start from.
    """

    def __init__(self, relative_to: Path) -> None:
        self._relative_to = relative_to

    def layers(self, model: str) -> int | None:
        """Return the number of blocks of a model, or None if its config cannot be read."""
        try:
            folder = folder_with(["config.json"], model, self._relative_to)
            config = read_json(folder / "config.json")
        except CheckpointError:
            return None
        for section in (config, *(v for v in config.values() if isinstance(v, dict))):
            for key in _LAYERS:
                if type(section.get(key)) is int:
                    return int(section[key])
        return None

    def chat_template(self, model: str) -> bool | None:
        """Whether the tokenizer has a chat template, or None if its files cannot be read."""
        try:
            folder = folder_with(_TOKENIZER_FILES, model, self._relative_to)
            if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
                return None  # in the Hub's cache, a model may have only some of its files
            return has_chat_template(folder)
        except CheckpointError:
            return None
