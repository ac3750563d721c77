"""Says what vision-language models of full size consist of, and which text models fit into them.

    python -m scripts.architectures.vision [NAME ...]

Models are built from the default configs of transformers, on the meta device: they have names and
shapes, and no weights. For each architecture a line says how many blocks its language model has,
how many tensors belong to each modality, and whether the text model of the same config is merged
into it (`fits`), or why not.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto import configuration_auto, modeling_auto
from transformers.utils import logging

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TEXT_TYPES, check_fit
from evomerge.models.safetensors import TensorInfo
from scripts.architectures.configs import GROUPS, class_name

_OF_THE_TYPE = ("model_type", "architectures", "layer_types")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures; all if none")
    logging.set_verbosity(50)
    for name in parser.parse_args().names or GROUPS["vl"]:
        try:
            host, text = _models(name)
        except Exception as error:
            print(f"{name:22}left out: {type(error).__name__}: {str(error).split('.')[0].strip()}")
            continue
        parts = ", ".join(f"{part} {len(names)}" for part, names in host.modalities.items())
        blocks = f"{len(host.decoder_stack)} blocks"
        print(f"{name:22}{blocks:12}{parts:36}{_fit(host, text)}", flush=True)


def _models(name: str) -> tuple[Checkpoint, Checkpoint | str]:
    """Return a vision-language model and the text model of its config, or the type of that one."""
    config = configuration_auto.CONFIG_MAPPING[name]()
    with torch.device("meta"):
        host = checkpoint_of(getattr(transformers, class_name(name))(config), name)
    section = config.get_text_config()
    kind = TEXT_TYPES.get(section.model_type, section.model_type)
    if kind not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return host, kind
    keys = {key: item for key, item in section.to_dict().items() if key not in _OF_THE_TYPE}
    keys["tie_word_embeddings"] = host.tied
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            configuration_auto.CONFIG_MAPPING[kind](**keys)
        )
    return host, checkpoint_of(model, kind)


def checkpoint_of(model: Any, name: str) -> Checkpoint:
    """Return a checkpoint with the config, names and shapes of a model, and no files."""
    tensors = {
        key: TensorInfo("F32", tuple(weight.shape), Path(), 0, 0)
        for key, weight in model.named_parameters()
    }
    return Checkpoint(name, Path(), model.config.to_dict(), tensors)


def _fit(host: Checkpoint, text: Checkpoint | str) -> str:
    if isinstance(text, str):
        return f"{text} has no model without a tower"
    try:
        check_fit(host, [text])
    except CheckpointError as error:
        return f"refused: {error}"
    return f"{text.reference} fits"


if __name__ == "__main__":
    main()
