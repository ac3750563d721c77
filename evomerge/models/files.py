"""The files in a model folder: which a merge takes over, which may be links, and what they lose.

transformers runs code that `auto_map` names if its caller says `trust_remote_code=True`, and loads
compiled code from the Hub if an attention is named as `org/kernel`. A merge has no such keys in its
JSON files.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.models.safetensors import read_json
from evomerge.parsing.texts import check_inside, check_ordinary, entries

_TEMPLATES = "additional_chat_templates"
"""Folder of chat templates beside the one that is used if none is named."""

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "chat_template.json", "chat_template.jinja",
)  # fmt: skip
PROCESSOR_FILES = tuple(
    f"{kind}_config.json"
    for kind in (
        "preprocessor", "processor", "image_processor", "video_preprocessor", "feature_extractor",
    )
)  # fmt: skip
"""Files that say how images, videos and sounds become the inputs of a model."""

_COMPANIONS = (*TOKENIZER_FILES, "generation_config.json", *PROCESSOR_FILES)
"""Files that a merged model takes over from its host, in addition to config and weights."""

_ONLY_READ = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".index.json")


def companion_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that a merged model takes over from its host, beside config and weights."""
    named = [folder / name for name in _COMPANIONS if (folder / name).is_file()]
    return (*named, *sorted((folder / _TEMPLATES).glob("*.jinja")))


def is_from_hub(folder: Path) -> bool:
    """Whether a folder is in the cache of the Hub's client, where a download is a snapshot."""
    return folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")


def check_files(folder: Path, inner: Iterable[str] = ()) -> None:
    """Check that the files of a model, and those in its folders `inner`, are ordinary files.

    Weights and their index may be links to elsewhere, since they are only read; other files are
    copied into merges. In the cache of the Hub's client, all files are links to the blobs of the
    model, or to those that all models of the cache share.

    CheckpointError: a link out of the folder or to nothing, or a pipe or device.
    """
    files = entries(folder, CheckpointError)
    for name in (_TEMPLATES, *inner):
        if (folder / name).is_dir():
            files += entries(folder / name, CheckpointError)
    check_ordinary(files, CheckpointError)
    real = folder.resolve()
    inside = [real]
    if is_from_hub(real):
        repository = real.parent.parent
        inside = [repository, repository.parent / "blobs"]
    copied = [file for file in files if not file.name.endswith(_ONLY_READ) and not file.is_dir()]
    check_inside(copied, inside, "the model", CheckpointError)
    for file in copied:
        if file.name in ("config.json", *_COMPANIONS) and not file.exists():
            raise CheckpointError(f"{file} is a link that leads to no file; download it again.")


_ATTENTIONS = ("attn_implementation", "experts_implementation")
_KEYS = {"auto_map", "custom_generate", "custom_pipelines", "trust_remote_code"}
_KEYS |= {*_ATTENTIONS, *(f"_{name}" for name in _ATTENTIONS)}


def without_code(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file of a model without keys that can run code, at any depth."""
    return dict(_cleaned(data, set()))


def text_without_code(file: Path) -> str | None:
    """Return the text of a model's JSON file without keys that can run code; None: it has none."""
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
    """Return the content of a config without keys that can run code, and these keys."""
    if not file.name.endswith("config.json"):
        return {}, []
    keys = set[str]()
    cleaned = dict(_cleaned(read_json(file), keys))
    return cleaned, sorted(keys)


def _cleaned(value: Any, keys: set[str]) -> Any:
    """Return a value without keys that can run code, and add those that are set to `keys`."""
    if isinstance(value, Mapping):
        keys |= {name for name, item in value.items() if name in _KEYS and item}
        return {name: _cleaned(item, keys) for name, item in value.items() if name not in _KEYS}
    return [_cleaned(item, keys) for item in value] if isinstance(value, list) else value
