"""Tiny vision-language models of many families, and the text models that merge into them."""

from pathlib import Path
from typing import Any

import tiny
import torch
import transformers

from evomerge.models.checkpoint import Checkpoint

TOKENS = tiny.VOCABULARY
_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_TEXT: dict[str, Any] = {
    **_SIZES, "vocab_size": TOKENS, "intermediate_size": 24, "num_key_value_heads": 1,
    "head_dim": 8, "max_position_embeddings": 64, "tie_word_embeddings": False, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_TOWER: dict[str, Any] = {**_SIZES, "intermediate_size": 16, "image_size": 8, "patch_size": 4}
_CLIP = {"model_type": "clip_vision_model", **_TOWER, "projection_dim": 16}
_SIGLIP = {"model_type": "siglip_vision_model", **_TOWER}
_QWEN = {"depth": 2, "hidden_size": 16, "num_heads": 2, "patch_size": 4, "intermediate_size": 16}
_ROPE = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
}
if not transformers.__version__.startswith("4."):
    del _ROPE["rope_scaling"]  # its name before transformers 5
_INDEX = {"image_token_index": TOKENS - 1}
_ID = {"image_token_id": TOKENS - 1}
_IDS = {
    **_ID, "video_token_id": TOKENS - 2, "vision_start_token_id": TOKENS - 3,
    "vision_end_token_id": TOKENS - 4,
}  # fmt: skip
_DEEP = {"out_hidden_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
_SQUARE = {**_TOWER, "image_size": [8, 8], "patch_size": [4, 4]}
_LLAVA = {**_INDEX, "vision_feature_layer": -1}

FAMILIES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llava": ("mistral", "Llava", _CLIP, _LLAVA),
    "llava_onevision": (
        "qwen2", "LlavaOnevision", _SIGLIP, {**_LLAVA, "image_grid_pinpoints": [[8, 8]]},
    ),
    "qwen2_vl": ("qwen2", "Qwen2VL", {**_QWEN, "embed_dim": 16, "mlp_ratio": 1}, _IDS),
    "qwen2_5_vl": (
        "qwen2", "Qwen2_5_VL", {**_QWEN, "out_hidden_size": 16, "fullatt_block_indexes": [1]}, _IDS,
    ),
    "qwen3_vl": ("qwen3", "Qwen3VL", {**_QWEN, **_DEEP}, _IDS),
    "smolvlm": ("llama", "SmolVLM", _TOWER, {**_ID, "scale_factor": 2}),
    "idefics3": ("llama", "Idefics3", _TOWER, {**_ID, "scale_factor": 2}),
    "gemma3": (
        "gemma3_text", "Gemma3", _SIGLIP,
        {**_INDEX, "mm_tokens_per_image": 4, "boi_token_index": TOKENS - 2,
         "eoi_token_index": TOKENS - 3},
    ),
    "internvl": ("qwen2", "InternVL", _SQUARE, _ID),
}  # fmt: skip
"""Family -> type of its text model, model class, and keys of the configs of tower and model."""

_CLASS = "{}ForConditionalGeneration"
FAMILIES = {k: it for k, it in FAMILIES.items() if hasattr(transformers, _CLASS.format(it[1]))}


def text_config(kind: str) -> Any:
    """Return the config of a text model; `kind` is its model type."""
    config = transformers.CONFIG_MAPPING[kind]
    return config(**_TEXT, **({"sliding_window": 8} if kind == "gemma3_text" else {}))


def make(folder: Path, family: str, seed: int = 0, **tower: Any) -> Checkpoint:
    """Save a random model of a family, or the text model of one (`family/text`), and open it."""
    name, _, part = family.partition("/")
    kind, class_name, own, keys = FAMILIES[name]
    text = text_config(kind)
    if part:
        model = transformers.AutoModelForCausalLM.from_config(text)
    else:
        given = text.to_dict() | (_ROPE if name.startswith("qwen") else {})
        keys = {**keys, "vision_config": {**own, **tower}, "tie_word_embeddings": False}
        config = transformers.CONFIG_MAPPING[name](text_config=given, **keys)
        model = getattr(transformers, _CLASS.format(class_name))(config)
    tiny.randomize(model, seed)
    with tiny.quiet():
        model.to(torch.float32).save_pretrained(folder)
    tiny.save_tokenizer(folder)
    return Checkpoint.open(folder, folder.name)


def load(folder: Path) -> torch.nn.Module:
    """Load a vision-language model with transformers, which must find every weight."""
    with tiny.quiet():
        model, told = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    found: torch.nn.Module = model.eval()
    return found


def add_processor(folder: Path) -> Any:
    """Save a processor of images of 8 x 8 pixels beside a LLaVA model, and return it."""
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    except ImportError:  # its name before transformers 5
        from transformers import CLIPImageProcessor as CLIPImageProcessorPil

    tiny.save_tokenizer(folder, [*tiny.WORDS[:-1], "<image>"])
    names = ["input_ids", "attention_mask"]  # what LLaVA reads
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, model_input_names=names)
    tokenizer.add_tokens(["<image>"], special_tokens=True)  # split off wherever it is in a text
    images = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    about = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = transformers.LlavaProcessor(images, tokenizer, patch_size=4, **about)
    processor.save_pretrained(folder)
    return processor


def prompts(model: Any, count: int) -> list[dict[str, torch.Tensor]]:
    """Return inputs of a model that sees: each a question about an image of random pixels."""
    drawn, config = torch.Generator().manual_seed(count), model.config
    kind, is_old = config.model_type, transformers.__version__.startswith("4.")
    shape, sizes = {
        "llava_onevision": ((1, 2, 3, 8, 8), {"image_sizes": torch.tensor([[8, 8]])}),
        "smolvlm": ((1, 1, 3, 8, 8), {}),
        "idefics3": ((1, 1, 3, 8, 8), {}),
    }.get(kind, ((1, 3, 8, 8), {}))
    if kind.startswith("qwen"):
        shape, sizes = (16, 96), {"image_grid_thw": torch.tensor([[1, 4, 4]])}
    made = []
    for _ in range(count):
        image = {"pixel_values": torch.randn(shape, generator=drawn), **sizes}
        features = model.model.get_image_features(**image)
        features = getattr(features, "pooler_output", features)
        tokens = sum(item.shape[:-1].numel() for item in features)
        token = getattr(config, "image_token_id", None) or config.image_token_index
        ids = torch.tensor([[1, *[token] * tokens, 5, 9]])
        told = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if kind == "gemma3":
            told["token_type_ids"] = (ids == token).int()
        elif kind.startswith("qwen") and not is_old:
            told["mm_token_type_ids"] = (ids == token).int()
        made.append({**image, **told})
    return made


def generate(model: Any, prompt: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of the tokens that a model writes."""
    about = {"max_new_tokens": 3, "do_sample": False, "output_logits": True}
    with torch.no_grad():
        written = model.generate(**prompt, **about, return_dict_in_generate=True)
    return torch.stack(written.logits)
