"""Parents in GGUF files of llama.cpp: converted once into the cache, by transformers' own reader.

Only files whose weights are numbers, or 8-bit blocks (Q8_0), are read: coarser ones have lost what
merges add up. The reader builds the whole model in memory, in float32.
"""

import hashlib
import json
import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from evomerge.compat.transformers import quiet
from evomerge.errors import CheckpointError, blaming, one_line
from evomerge.models.fp8 import without_quantisation
from evomerge.models.safetensors import SINGLE
from evomerge.words import size_text

ENDING = ".gguf"

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "Q8_0": "bfloat16"}
"""How weights are stored -> the dtype that they are converted to."""

_ROUND = {"float32": "float", "float16": "half", "bfloat16": "bfloat16"}
"""dtype -> the method of a tensor that rounds to it."""

_BYTES = 4  # of a number while the model is in memory


class _Header(NamedTuple):
    """What the header of a file says: its architecture, and how its tensors are stored."""

    architecture: str
    kinds: set[str]


def split_file(reference: str) -> tuple[str, str]:
    """Return the repository and the file of `org/name:file.gguf`; a path has no repository."""
    repository, colon, file = reference.partition(":")
    is_on_hub = colon and file.endswith(ENDING) and "/" in repository
    return (repository, file) if is_on_hub and repository[0] not in "./~" else ("", reference)


def check_file(file: Path, reference: str) -> None:
    """Check that a file can be converted, if it was not yet; its weights are not read.

    CheckpointError: it is damaged, quantised in a coarser way, or of another architecture.
    """
    if _target(file).is_dir():
        return
    if find_spec("gguf") is None:
        raise CheckpointError(
            f"Parent {reference!r} is a GGUF file, which the package gguf reads; install it with "
            "`pip install 'evomerge[gguf]'`."
        )
    header = _header(file, file.stat().st_mtime_ns, reference)
    if coarse := sorted(header.kinds - _DTYPES.keys()):
        raise CheckpointError(
            f"Parent {reference!r} has weights in {', '.join(coarse)}, which have lost what merges "
            f"add up (allowed are {', '.join(_DTYPES)}); give the checkpoint that it was made "
            "from, or convert it by the three lines of docs/how-to/gguf.md."
        )
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    if header.architecture not in GGUF_CONFIG_MAPPING:
        raise CheckpointError(
            f"Parent {reference!r} is a GGUF file of the architecture {header.architecture!r}, "
            "which the installed transformers does not read from GGUF; give the checkpoint that it "
            "was made from."
        )


def converted_file(file: Path, reference: str) -> Path:
    """Return the folder with the model of a file, which is made at the first time.

    CheckpointError: as `check_file`, or the cache cannot be written.
    """
    target = _target(file)
    cache = target.parent
    if target.is_dir():
        return target
    check_file(file, reference)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as made:
            _convert(file, Path(made), reference)
            Path(made).rename(target)
    except OSError as error:
        if not target.is_dir():  # else another process was quicker
            raise CheckpointError(
                f"{file} cannot be converted into {cache} ({one_line(error)}); free space, or set "
                "XDG_CACHE_HOME to another folder."
            ) from error
    return target


def memory_text(weights: int) -> str:
    """Return how much memory the conversion of so many weights takes, in words."""
    return size_text(_BYTES * weights)


def _target(file: Path) -> Path:
    """Return the folder in the cache that has the model of a file as it is now."""
    state = file.stat()
    about = ["gguf", str(file.resolve()), state.st_size, state.st_mtime_ns]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "evomerge", "weights")
    return cache / hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


@lru_cache(8)
def _header(file: Path, changed: int, reference: str) -> _Header:
    """Return the header of a file, `changed` at this time; a large vocabulary takes seconds."""
    import gguf

    why = f"Parent {reference!r} cannot be read as GGUF ({{reason}}); download it again."
    with blaming(CheckpointError, why):
        reader: Any = gguf.GGUFReader(file)
        kinds = {tensor.tensor_type.name for tensor in reader.tensors}
        architecture = str(reader.fields["general.architecture"].contents())
    return _Header(architecture, kinds)


def _convert(file: Path, folder: Path, reference: str) -> None:
    """Write the model and the tokenizer of a file into a folder."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kinds = _header(file, file.stat().st_mtime_ns, reference).kinds
    dtypes = {_DTYPES[kind] for kind in kinds if kind != "F32"} or {"float32"}
    dtype = dtypes.pop() if len(dtypes) == 1 else "bfloat16"
    how: Any = {"gguf_file": file.name, "trust_remote_code": False}
    why = f"Parent {reference!r} cannot be converted ({{reason}}); give the checkpoint of it."
    with blaming(CheckpointError, why), quiet():
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, **how)
        tokenizer.save_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype="float32", use_kernels=False, **how
        )
        tensors = {
            name: getattr(tensor, _ROUND[dtype])().clone().contiguous()
            for name, tensor in model.state_dict().items()
        }
        save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
        config = without_quantisation(model.config.to_dict())
        config |= {"architectures": [type(model).__name__], "dtype": dtype}
        (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        model.generation_config.save_pretrained(folder)
