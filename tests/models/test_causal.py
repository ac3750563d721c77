"""Models that lm-eval's tasks cannot be scored on are refused by their config and files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import seeing
import tiny

from evomerge.errors import CheckpointError
from evomerge.merging.backend import load
from evomerge.models.causal import check_causal, check_tokenizer
from evomerge.models.checkpoint import Checkpoint

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no type": ({"model_type": None}, "model_type None"),
    "unknown type": ({"model_type": "frob"}, "does not know its model_type 'frob'"),
    "code of its own": (
        {"model_type": "frob", "auto_map": {"AutoConfig": "own.Config"}},
        "code that comes with a model is not run",
    ),
    "encoder": ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "no causal"),
    "base model": ({"architectures": ["LlamaModel"]}, "no causal"),
    "classifier": ({"architectures": ["LlamaForSequenceClassification"]}, "no causal"),
    "encoder and decoder": (
        {"model_type": "t5", "is_encoder_decoder": True, "architectures": ["T5Model"]},
        "encoder-decoder",
    ),
}


def opened(folder: Path, config: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint("org/model", folder, config, {})


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_cannot_be_scored_is_one_sentence(case: str, tmp_path: Path) -> None:
    change, words = REFUSED[case]
    llama = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    with pytest.raises(CheckpointError, match=words) as caught:
        check_causal(opened(tmp_path, llama | change))
    assert "org/model" in str(caught.value) and "\n" not in str(caught.value)


def test_language_models_pass(tmp_path: Path) -> None:
    for name in ("LlamaForCausalLM", "GPT2LMHeadModel", "GPT2DoubleHeadsModel", "LlavaForAny"):
        check_causal(opened(tmp_path, {"model_type": "llama", "architectures": [name]}))
    check_causal(opened(tmp_path, {"model_type": "llama"}))


def test_a_folder_without_a_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    tiny.make(tmp_path / "a")
    whole = Checkpoint.open(tmp_path / "a", "a")
    check_tokenizer(whole)
    for file in whole.companions:
        file.unlink()
    with pytest.raises(CheckpointError, match=r"'a' has no tokenizer; put tokenizer\.json"):
        check_tokenizer(whole)
    (tmp_path / "a" / "generation_config.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="no tokenizer"):
        check_tokenizer(whole)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3"])
def test_a_model_that_sees_is_loaded_with_its_tower_for_texts_too(family, tmp_path):
    model = load(seeing.make(tmp_path / "a", family), "cpu")
    assert type(model) is type(seeing.load(tmp_path / "a"))
    assert tiny.logits(model).shape == (1, 7, seeing.TOKENS)
