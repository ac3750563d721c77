"""The tensors of a model's folder, whichever kind of file has them. No weights are loaded."""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import CheckpointError
from evomerge.models.modules import KINDS, ModuleStack
from evomerge.models.pickles import converted
from evomerge.models.safetensors import TensorInfo, read_folder

GGUF_ADVICE = (
    "GGUF files have weights that are quantised for llama.cpp, which cannot be merged as they are; "
    "give the checkpoint that the file was made from, or save a new one from it: load it with "
    "`AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=NAME)`, then load its state_dict into "
    "a new model of its config and save that with `save_pretrained`, with the tokenizer."
)


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
                f"Parent {reference!r} is quantised (tensor {name!r} has dtype {info.dtype}); "
                "merge the full-precision checkpoint it was made from."
            )
    return tensors


def module_tensors(folder: Path, reference: str, stack: ModuleStack) -> dict[str, TensorInfo]:
    """Return the tensors of the modules behind the transformer, by `FOLDER.name in its file`."""
    found = {}
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
            found[f"{module.folder}.{name}"] = info
    return found
