"""Tiny encoder-decoders of many families; encoder and decoder differ in depth."""

from pathlib import Path
from typing import Any

import tiny
import torch
import transformers
from tokenizers import Tokenizer, processors

ENCODER, DECODER = 2, 3

_IDS = {"vocab_size": tiny.VOCABULARY, "pad_token_id": 0, "eos_token_id": 2, "d_model": 16}
_T5 = {
    **_IDS, "d_ff": 24, "d_kv": 8, "num_layers": ENCODER, "num_decoder_layers": DECODER,
    "num_heads": 2, "decoder_start_token_id": 0, "n_positions": 64,
}  # fmt: skip
_BART = {
    **_IDS, "encoder_layers": ENCODER, "decoder_layers": DECODER, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
    "max_position_embeddings": 64, "bos_token_id": 1, "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}  # fmt: skip
_WHISPER = {
    "num_mel_bins": 8, "max_source_positions": 50, "max_target_positions": 32,
    "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5ForConditionalGeneration", _T5),
    "mt5": ("MT5ForConditionalGeneration", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "bart": ("BartForConditionalGeneration", _BART),
    "mbart": ("MBartForConditionalGeneration", _BART),
    "marian": ("MarianMTModel", _BART),
    "pegasus": ("PegasusForConditionalGeneration", _BART),
    "whisper": ("WhisperForConditionalGeneration", {**_BART, **_WHISPER}),
}
"""Family -> model class, and keys of its config."""


def make(folder: Path, family: str = "t5", seed: int = 0, **changes: Any) -> Path:
    """Save a random model of a family (`bart/classifier`: of texts) with a word-level tokenizer."""
    family, _, classifier = family.partition("/")
    name, keys = FAMILIES[family]
    if classifier:
        name = name.replace("ConditionalGeneration", "SequenceClassification")
    config: Any = transformers.CONFIG_MAPPING[family](**{**keys, **changes})
    with tiny.quiet():
        model = getattr(transformers, name)(config)
        tiny.randomize(model, seed)
        with torch.no_grad():  # so that different inputs get different answers
            for weight in model.parameters():
                weight.mul_(1 if weight.dim() == 1 else 6)
        model.save_pretrained(folder)
    tiny.save_tokenizer(folder)
    if classifier:  # which reads what is at the end token
        core = Tokenizer.from_file(str(folder / "tokenizer.json"))
        core.post_processor = processors.TemplateProcessing(
            single="$A <eos>", special_tokens=[("<eos>", 2)]
        )
        core.save(str(folder / "tokenizer.json"))
    return folder


def load(folder: Path) -> Any:
    """Load a model with transformers, which must find every weight and have a place for each."""
    auto = transformers.AutoModelForSeq2SeqLM
    if transformers.AutoConfig.from_pretrained(folder).model_type == "whisper":
        auto = transformers.AutoModelForSpeechSeq2Seq
    with tiny.quiet():
        model, told = auto.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()
