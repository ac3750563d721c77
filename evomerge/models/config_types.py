"""Types of the keys of a config.json that are read here; transformers checks its other keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.parsing.values import Values

SECTIONS = ("text_config", "llm_config", "language_config", "decoder")
"""Keys under which a config may have a section for its language model."""

_COUNTS = {
    "vocab_size": 0,
    "num_hidden_layers": 0,
    "num_hidden_groups": 1,
    "max_position_embeddings": 1,
    "n_positions": 1,
    "n_ctx": 1,
}
"""Key -> its smallest value."""

_VALUES = Values(CheckpointError)


def check_types(config: Mapping[str, Any], file: str) -> None:
    """Check the types of the model's type, its architectures and its sizes, in every section.

    Args:
        config: content of the file.
        file: its name in error messages.

    Raises:
        CheckpointError: a value is of another type.
    """
    named = [("", config), *((f"{name}.", config.get(name)) for name in SECTIONS)]
    for prefix, section in named:
        if not isinstance(section, dict):
            continue
        where = f"{file}: {prefix}"
        if section.get("model_type") is not None:
            _VALUES.text(section["model_type"], f"{where}model_type")
        names = section.get("architectures")
        for number, name in enumerate(_VALUES.items(names or [], f"{where}architectures")):
            _VALUES.text(name, f"{where}architectures[{number}]")
        for key, least in _COUNTS.items():
            if section.get(key) is not None:
                _VALUES.whole(section[key], where + key, least=least)
