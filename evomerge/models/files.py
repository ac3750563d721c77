"""The files in a model folder: which a merge takes over, which may be links, what they lose, and
their tensors.

transformers runs code that `auto_map` names if its caller says `trust_remote_code=True`, and loads
compiled code from the Hub if an attention is named as `org/kernel`. A merge has no such keys in its
JSON files.

Old checkpoints in pickle files (`pytorch_model*.bin`) are converted to safetensors once. torch
reads them with `weights_only`, which runs no code. The result is in `evomerge/weights` of the
user's cache (`~/.cache`, or the folder that XDG_CACHE_HOME names).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError

from evomerge.errors import CheckpointError, blaming, one_line
from evomerge.models.fp8 import with_scales
from evomerge.models.modules import KINDS, ModuleStack
from evomerge.models.safetensors import INDEX, TensorInfo, read_folder, read_json
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


GGUF_ADVICE = (
    "it has GGUF files; name one of them, `FOLDER/FILE.gguf`, or give the checkpoint "
    "that it was made from."
)


def read_tensors(
    folder: Path, reference: str, config: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, TensorInfo]:
    """Return all tensors of a model folder by name, whichever kind of file they are in.

    `config`: its `config.json`, which says how weights are quantised.
    """
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    has_safetensors = any(folder.glob("*.safetensors"))
    if any(folder.glob("*.gguf")) and not (has_safetensors or pickles):
        raise CheckpointError(f"Parent {reference!r}: {GGUF_ADVICE}")
    tensors = read_folder(converted(pickles) if pickles and not has_safetensors else folder)
    return with_scales(tensors, config, reference)


def module_tensors(folder: Path, reference: str, stack: ModuleStack) -> dict[str, TensorInfo]:
    """Return the tensors of the modules behind the transformer, by `FOLDER.name in its file`."""
    tensors = {}
    for module in stack.modules[1:]:
        inside = folder / module.folder
        if not any(file.suffix in (".safetensors", ".bin") for file in inside.glob("*")):
            continue
        if module.kind not in KINDS:
            raise CheckpointError(
                f"Parent {reference!r}: the module {module.kind} in {inside} has weights, and "
                f"those of {', '.join(KINDS)} can be merged; give a model without such a module."
            )
        for name, info in read_tensors(inside, reference).items():
            tensors[f"{module.folder}.{name}"] = info
    return tensors


def converted(files: Sequence[Path]) -> Path:
    """Return the folder with the weights of pickle files, which is made at the first time.

    CheckpointError: a file is damaged or is not plain weights, or the cache cannot be written.
    """
    about = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "evomerge", "weights")
    target = cache / hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    if target.is_dir():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as made:
            names = {file.stem: _write(file, Path(made, file.stem)) for file in files}
            places = {name: shard for shard, found in names.items() for name in found}
            Path(made, INDEX).write_text(json.dumps({"weight_map": places}), encoding="utf-8")
            Path(made).rename(target)
    except (OSError, SafetensorError) as error:
        if not target.is_dir():  # else another process was quicker
            raise CheckpointError(
                f"The pickled weights in {files[0].parent} cannot be converted into {cache} "
                f"({one_line(error)}); free space, or set XDG_CACHE_HOME to another folder."
            ) from error
    return target


def _write(file: Path, out: Path) -> list[str]:
    """Write the tensors of a pickle file as safetensors, and return their names."""
    import torch
    from safetensors.torch import save_file

    why = f"{file} cannot be read as plain weights: {{reason}}; take another copy, or safetensors"
    with blaming(CheckpointError, f"{why} files."):
        content = torch.load(file, map_location="cpu", weights_only=True)
        tensors = {name: item for name, item in content.items() if isinstance(item, torch.Tensor)}
    save_file({name: item.clone().contiguous() for name, item in tensors.items()}, out)
    return list(tensors)
