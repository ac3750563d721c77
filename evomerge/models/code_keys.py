"""Keys of a model's JSON files that let programs run code from elsewhere; a merge has none of them.

transformers runs code that `auto_map` names if its caller says `trust_remote_code=True`, and loads
compiled code from the Hub if an attention is named as `org/kernel`.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evomerge.models.safetensors import read_json

_ATTENTIONS = ("attn_implementation", "experts_implementation")
_KEYS = {"auto_map", "custom_generate", "custom_pipelines", "trust_remote_code"}
_KEYS |= {*_ATTENTIONS, *(f"_{name}" for name in _ATTENTIONS)}


def without_code(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file of a model without such keys, at any depth."""
    return dict(_cleaned(data, set()))


def text_without_code(file: Path) -> str | None:
    """Return the text of a model's JSON file without such keys; None: it has none of them."""
    cleaned, keys = _content(file)
    return json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n" if keys else None


def code_notes(reference: str, files: Iterable[Path]) -> list[str]:
    """Return one sentence for each file of the host of which a merge leaves out such keys."""
    return [
        f"{file.name} of {reference} has {', '.join(keys)}, which can make programs run code that "
        "is not part of them; the merge leaves it out."
        for file in files
        if (keys := _content(file)[1])
    ]


def _content(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the content of a config without such keys, and what it is without."""
    if not file.name.endswith("config.json"):
        return {}, []
    keys = set[str]()
    cleaned = dict(_cleaned(read_json(file), keys))
    return cleaned, sorted(keys)


def _cleaned(value: Any, keys: set[str]) -> Any:
    """Return a value without such keys, at any depth, and add those that are set to `keys`."""
    if isinstance(value, Mapping):
        keys |= {name for name, item in value.items() if name in _KEYS and item}
        return {name: _cleaned(item, keys) for name, item in value.items() if name not in _KEYS}
    return [_cleaned(item, keys) for item in value] if isinstance(value, list) else value
