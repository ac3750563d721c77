"""Keys of a model's JSON files that let programs run code from elsewhere; a merge has none of them.

transformers runs code that `auto_map` names if its caller says `trust_remote_code=True`, and loads
compiled code from the Hub if an attention is named as `org/kernel`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.models.safetensors import read_json

_KEYS = frozenset(
    {
        "auto_map",
        "custom_generate",
        "custom_pipelines",
        "trust_remote_code",
        "attn_implementation",
        "_attn_implementation",
        "experts_implementation",
        "_experts_implementation",
    }
)
_CLASS, _PLAIN = "tokenizer_class", "PreTrainedTokenizerFast"
_KNOWN = frozenset(
    {_PLAIN, "PreTrainedTokenizer", "TokenizersBackend"}
    | {
        name + end
        for name in ("Bert", "Gemma", "GPT2", "GPTNeoX", "Llama", "Qwen2", "Roberta", "T5")
        for end in ("Tokenizer", "TokenizerFast")
    }
)
"""Classes of transformers that most models name, for which it need not be imported."""

_CONFIG, _TOKENIZER = "config.json", "tokenizer_config.json"
"""Names of files. Those of other configs end with the first one, `generation_config.json` too."""


def without_code(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file of a model without such keys, at any depth."""
    return {name: _inner(value) for name, value in data.items() if name not in _KEYS}


def text_without_code(file: Path) -> str | None:
    """Return the text of a model's JSON file without such keys; None: it has none of them.

    A `tokenizer_class` that transformers does not have becomes the class for a `tokenizer.json`.
    """
    if not file.name.endswith(_CONFIG):
        return None
    data = read_json(file)
    if not list(_found(data)) and not _unknown_class(file, data):
        return None
    cleaned = without_code(data)
    if _unknown_class(file, data):
        cleaned[_CLASS] = _PLAIN
    return json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n"


def code_notes(reference: str, files: Iterable[Path]) -> list[str]:
    """Return one sentence for each file of the host of which a merge leaves out such keys."""
    notes = []
    for file in files:
        if not file.name.endswith(_CONFIG):
            continue
        data = read_json(file)
        found = sorted(set(_found(data)))
        if _unknown_class(file, data):
            found.append(f"the {_CLASS} {data[_CLASS]}")
        if found:
            notes.append(
                f"{file.name} of {reference} has {', '.join(found)}, which can make programs run "
                "code that is not part of them; the merge leaves it out."
            )
    return notes


def _inner(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_code(value)
    return [_inner(item) for item in value] if isinstance(value, list) else value


def _found(value: Any) -> Iterator[str]:
    """Yield the keys of this kind that are set, at any depth."""
    if isinstance(value, Mapping):
        yield from (name for name, item in value.items() if name in _KEYS and item)
    inside: Iterable[Any] = value.values() if isinstance(value, Mapping) else ()
    for item in value if isinstance(value, list) else inside:
        yield from _found(item)


def _unknown_class(file: Path, data: Mapping[str, Any]) -> bool:
    name = data.get(_CLASS)
    if file.name != _TOKENIZER or not isinstance(name, str) or name in _KNOWN:
        return False
    import transformers

    return not hasattr(transformers, name) and (file.parent / "tokenizer.json").is_file()
