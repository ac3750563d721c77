"""The tensors of a model's folder, whichever kind of file has them. No weights are loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evomerge.errors import CheckpointError
from evomerge.models.modules import KINDS, ModuleStack
from evomerge.models.safetensors import TensorInfo, read_folder

GGUF_ADVICE = (
    "GGUF files have weights that are quantised for llama.cpp, which cannot be merged as they are; "
    "give the checkpoint that the file was made from, or save a new one from it: load it with "
    "`AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=NAME)`, then load its state_dict into "
    "a new model of its config and save that with `save_pretrained`, with the tokenizer."
)


def read_tensors(folder: Path, reference: str, *, allow_pickle: bool) -> dict[str, TensorInfo]:
    """Return all tensors of a model folder by name, whichever kind of file they are in."""
    pickles = sorted(folder.glob("*.bin"))
    has_safetensors = any(folder.glob("*.safetensors"))
    if any(folder.glob("*.gguf")) and not (has_safetensors or pickles):
        raise CheckpointError(f"Parent {reference!r}: {GGUF_ADVICE}")
    if has_safetensors or not pickles:
        tensors = read_folder(folder)
    elif allow_pickle:
        from evomerge.models.pickles import read_folder as read_pickles

        tensors = read_pickles(folder)
    else:
        raise CheckpointError(
            f"{folder} has its weights in {pickles[0].name}, which is a pickle file, and a pickle "
            "can run code when it is read; use a version of the model in safetensors files, or "
            "allow pickles with --allow-pickle."
        )
    for name, info in tensors.items():
        if info.dtype.startswith("F8"):
            raise CheckpointError(
                f"Parent {reference!r} is quantised (tensor {name!r} has dtype {info.dtype}); "
                "merge the full-precision checkpoint it was made from."
            )
    return tensors


def module_tensors(
    folder: Path, reference: str, stack: ModuleStack, *, allow_pickle: bool
) -> dict[str, TensorInfo]:
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
        for name, info in read_tensors(inside, reference, allow_pickle=allow_pickle).items():
            found[f"{module.folder}.{name}"] = replace(info, stored=name)
    return found
