"""The tensors of a model's folder, whichever kind of file has them.

Old checkpoints in pickle files (`pytorch_model*.bin`) are converted to safetensors once. torch
reads them with `weights_only`, which runs no code. The result is in `evomerge/weights` of the
user's cache (`~/.cache`, or the folder that XDG_CACHE_HOME names).
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

from evomerge.errors import CheckpointError, blaming, one_line
from evomerge.models.modules import KINDS, ModuleStack
from evomerge.models.safetensors import INDEX, TensorInfo, read_folder

GGUF_ADVICE = (
    "GGUF files have weights that are quantised for llama.cpp and cannot be merged; give the "
    "checkpoint that the file was made from."
)

FULL = "merge the full-precision checkpoint it was made from."


def read_tensors(folder: Path, reference: str) -> dict[str, TensorInfo]:
    """Return all tensors of a model folder by name, whichever kind of file they are in."""
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    has_safetensors = any(folder.glob("*.safetensors"))
    if any(folder.glob("*.gguf")) and not (has_safetensors or pickles):
        raise CheckpointError(f"Parent {reference!r}: {GGUF_ADVICE}")
    tensors = read_folder(converted(pickles) if pickles and not has_safetensors else folder)
    for name, info in tensors.items():
        if info.dtype.startswith("F8"):
            raise CheckpointError(
                f"Parent {reference!r} is quantised (tensor {name!r} is {info.dtype}); {FULL}"
            )
    return tensors


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
