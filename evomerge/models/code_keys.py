"""Keys of a model's JSON files that let programs run code from elsewhere; a merge has none of them.

transformers runs code that `auto_map` names if its caller says `trust_remote_code=True`, and loads
compiled code from the Hub if an attention is named as `org/kernel`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evomerge.models.safetensors import read_json

_ATTENTIONS = ("attn_implementation", "experts_implementation")
_KEYS = {"auto_map", "custom_generate", "custom_pipelines", "trust_remote_code"}
_KEYS |= {*_ATTENTIONS, *(f"_{name}" for name in _ATTENTIONS)}
_CLASS, _PLAIN = "tokenizer_class", "PreTrainedTokenizerFast"
_KNOWN = re.compile(
    r"(PreTrained|Bert|Gemma|GPT2|GPTNeoX|Llama|Qwen2|Roberta|T5)Tokenizer(Fast)?|TokenizersBackend"
)
"""Classes of transformers that most models name, for which it need not be imported."""


def without_code(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file of a model without such keys, at any depth."""
    return dict(_cleaned(data, set()))


def text_without_code(file: Path) -> str | None:
    """Return the text of a model's JSON file without such keys; None: it has none of them.

    A `tokenizer_class` that transformers does not have becomes the class for a `tokenizer.json`.
    """
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
    data, keys = read_json(file), set[str]()
    cleaned, found, name = dict(_cleaned(data, keys)), sorted(keys), data.get(_CLASS)
    is_tokenizer = file.name == "tokenizer_config.json" and isinstance(name, str)
    if is_tokenizer and not _KNOWN.fullmatch(str(name)):
        import transformers

        if not hasattr(transformers, str(name)) and (file.parent / "tokenizer.json").is_file():
            cleaned[_CLASS] = _PLAIN
            found.append(f"the {_CLASS} {name}")
    return cleaned, found


def _cleaned(value: Any, keys: set[str]) -> Any:
    """Return a value without such keys, at any depth, and add those that are set to `keys`."""
    if isinstance(value, Mapping):
        keys |= {name for name, item in value.items() if name in _KEYS and item}
        return {name: _cleaned(item, keys) for name, item in value.items() if name not in _KEYS}
    return [_cleaned(item, keys) for item in value] if isinstance(value, list) else value
