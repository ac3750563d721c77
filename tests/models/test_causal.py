"""Models that lm-eval's tasks cannot be scored on are refused by their config and files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import seeing
import tiny

from evomerge.errors import CheckpointError
from evomerge.merging.backend import load
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.parts import check_causal


def opened(folder: Path, config: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint("org/model", folder, config, {})


def test_language_models_pass_and_others_do_not(tmp_path: Path) -> None:
    """More of those that do not are in `bad_input.yaml`."""
    t5 = {"model_type": "t5", "is_encoder_decoder": True, "architectures": ["T5Model"]}
    classifier = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}
    for config, words in ((t5, "encoder-decoder"), (classifier, "no causal")):
        with pytest.raises(CheckpointError, match=f"org/model.*{words}"):
            check_causal(opened(tmp_path, config))
    for name in ("LlamaForCausalLM", "GPT2LMHeadModel", "GPT2DoubleHeadsModel", "LlavaForAny"):
        check_causal(opened(tmp_path, {"model_type": "llama", "architectures": [name]}))
    check_causal(opened(tmp_path, {"model_type": "llama"}))


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3"])
def test_a_model_that_sees_is_loaded_with_its_tower_for_texts_too(family, tmp_path):
    model = load(seeing.make(tmp_path / "a", family), "cpu")
    assert type(model) is type(seeing.load(tmp_path / "a"))
    assert tiny.logits(model).shape == (1, 7, seeing.TOKENS)
