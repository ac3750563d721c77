"""Tiny random checkpoints of many architectures, made in a second and saved as users have them."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as reports

from evomerge import zoo

since_transformers_5 = pytest.mark.skipif(
    transformers.__version__.startswith("4."), reason="transformers 4 does it in another way"
)

WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(44))]
VOCABULARY = len(WORDS)

_ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
_ENDS = {"bos_token_id": 1, "eos_token_id": 2}
_DECODER: dict[str, Any] = {**_ENCODER, **_ENDS, "num_key_value_heads": 1, "head_dim": 8}
_MIXTURE = {**_DECODER, "num_experts_per_tok": 2}
_LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]


def _llava() -> Any:
    tower = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=8, patch_size=4, projection_dim=16,
    )  # fmt: skip
    text, token = transformers.LlamaConfig(**_DECODER), VOCABULARY - 1
    about = {"image_token_index": token, "vision_feature_layer": -1}
    return transformers.LlavaConfig(text_config=text, vision_config=tower, **about)


def _qwen2_vl() -> Any:
    rope = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
    tower = {
        "depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 1,
        "patch_size": 4,
    }  # fmt: skip
    tokens = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    about: dict[str, Any] = {name: VOCABULARY - 1 - i for i, name in enumerate(tokens)}
    text = {**_DECODER, **rope}
    return transformers.Qwen2VLConfig(text_config=text, vision_config=tower, **about)


CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**_DECODER),
    "mistral": lambda: transformers.MistralConfig(**_DECODER, sliding_window=8),
    "qwen2": lambda: transformers.Qwen2Config(**_DECODER, max_window_layers=2),
    "qwen3": lambda: transformers.Qwen3Config(**_DECODER),
    "gemma2": lambda: transformers.Gemma2Config(**_DECODER, sliding_window=8),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **_DECODER, sliding_window=8, layer_types=_LAYER_TYPES
    ),
    "phi3": lambda: transformers.Phi3Config(**_DECODER),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        **_DECODER, rotary_pct=0.5, tie_word_embeddings=False
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=3, n_head=2, n_positions=64, pad_token_id=0,
        **_ENDS,
    ),
    "olmo2": lambda: transformers.Olmo2Config(**_DECODER),
    "granite": lambda: transformers.GraniteConfig(**_DECODER),
    "smollm3": lambda: transformers.SmolLM3Config(**_DECODER, no_rope_layers=[1, 1, 0]),
    "mixtral": lambda: transformers.MixtralConfig(**_MIXTURE, num_local_experts=3),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **_MIXTURE, num_experts=3, moe_intermediate_size=8, decoder_sparse_step=1
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **{**_MIXTURE, "intermediate_size": 16}, num_local_experts=3, sliding_window=8,
        layer_types=_LAYER_TYPES,
    ),
    "bert": lambda: transformers.BertConfig(**_ENCODER),
    "t5": lambda: transformers.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_ff=24, d_kv=8, num_layers=3, num_decoder_layers=3,
        num_heads=2, pad_token_id=0, decoder_start_token_id=0, eos_token_id=2,
    ),
    "llava": _llava,
    "qwen2_vl": _qwen2_vl,
}  # fmt: skip
"""Architecture -> a tiny config of it."""

_ROBERTA = {**_ENCODER, "max_position_embeddings": 65}  # they begin behind that of padding
CLASSIFIERS: dict[str, Callable[[], Any]] = {
    **CONFIGS,
    "roberta": lambda: transformers.RobertaConfig(**_ROBERTA),
}
"""Architecture of models with a classification head -> a tiny config of it."""

CLASSES: dict[str, str] = {
    "bert": "BertForMaskedLM",
    "t5": "T5ForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
}
"""Model class by architecture, where it is not the causal language model."""


def make(
    folder: Path,
    architecture: str = "llama",
    *,
    seed: int = 0,
    dtype: str = "float32",
    tied: bool | None = None,
    shards: bool = False,
    near: Path | None = None,
    tokenizer: bool = True,
    **changes: Any,
) -> Path:
    """Save a random checkpoint of an architecture (`CONFIGS`), and return its folder.

    Args:
        tied: whether the head is the embeddings; None is the architecture's default.
        shards: several files with an index instead of one.
        near: a folder that `make` wrote; weights are its weights plus a little noise.
        tokenizer: whether a word-level tokenizer is saved too.
        changes: values of the config's keys.
    """
    config = CONFIGS[architecture]()
    for part in {id(item): item for item in (config, config.get_text_config())}.values():
        for key, value in changes.items():
            if hasattr(part, key):
                setattr(part, key, value)
        if tied is not None:
            part.tie_word_embeddings = tied
    config = type(config).from_dict(config.to_dict())
    kind = CLASSES.get(architecture)
    model_class = getattr(transformers, kind) if kind else transformers.AutoModelForCausalLM
    with quiet():
        model = model_class(config) if kind else model_class.from_config(config)
        if near is not None:
            model = type(model).from_pretrained(near, dtype=torch.float32)
        randomize(model, seed, around=near is not None)
        size = "10KB" if shards else "5GB"
        model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=size)
    if tokenizer:
        save_tokenizer(folder)
    return folder


def make_encoder(
    folder: Path,
    *,
    seed: int = 0,
    near: Path | None = None,
    architecture: str = "bert",
    pooling: str = "mean",
    dense: int = 8,
    dtype: str = "float32",
    length: int = 16,
    prompts: dict[str, str] | None = None,
    default_prompt: str | None = None,
    include_prompt: bool = True,
) -> Path:
    """Save a random sentence encoder as sentence-transformers does, and return its folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as parts

    with tempfile.TemporaryDirectory() as place, quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        plain = make(Path(place) / "plain", architecture)
        transformer = parts.Transformer(str(plain), max_seq_length=length)
        size = transformer.get_embedding_dimension()
        modules = [transformer, parts.Pooling(size, pooling, include_prompt=include_prompt)]
        modules += [*([parts.Dense(size, dense)] if dense else []), parts.Normalize()]
        about = {"prompts": prompts, "default_prompt_name": default_prompt, "device": "cpu"}
        model = SentenceTransformer(modules=modules, **about)
        if near is not None:
            model.load_state_dict(SentenceTransformer(str(near), device="cpu").state_dict())
        randomize(model, seed, around=near is not None)
        model.to(getattr(torch, dtype)).save_pretrained(str(folder), create_model_card=False)
    return folder


def make_classifier(
    folder: Path,
    architecture: str = "bert",
    labels: Sequence[str] = ("bad", "good"),
    *,
    head: str = "Sequence",
    seed: int = 0,
    near: Path | None = None,
    dtype: str = "float32",
    template: str | None = None,
    **changes: Any,
) -> Path:
    """Save a random model with a classification head, and return its folder."""
    config = CLASSIFIERS[architecture]()
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: number for number, name in enumerate(labels)}
    for key, value in changes.items():
        setattr(config, key, value)
    with quiet():
        kind = getattr(transformers, f"AutoModelFor{head}Classification")
        model = kind.from_config(config)
        if near is not None:
            model = type(model).from_pretrained(near, config=config, dtype=torch.float32)
        randomize(model, seed, around=near is not None)
        with torch.no_grad():  # so that texts get different labels
            for parameter in model.parameters() if near is None else ():
                parameter.mul_(1 if parameter.dim() == 1 else 6)
        model.to(getattr(torch, dtype)).save_pretrained(folder)
    save_tokenizer(folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def randomize(model: torch.nn.Module, seed: int, *, around: bool = False) -> None:
    """Give every parameter random values, or move it a little from where it is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if around:
                parameter.add_(noise, alpha=0.02)
            elif parameter.dim() == 1 and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(0.1 * noise)


def save_tokenizer(folder: Path, words: list[str] | None = None) -> None:
    """Save a word-level tokenizer that splits at whitespace."""
    words = WORDS if words is None else words
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Let `change` edit the tensors of a one-file checkpoint in place."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = {name: item.clone() for name, item in load_file(file).items()}
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def edit_config(folder: Path, name: str = "config.json", **values: Any) -> None:
    """Set keys of a checkpoint's config, or of another JSON file."""
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def load(folder: Path) -> torch.nn.Module:
    """Load a checkpoint the way users do, by its Auto class, in its own dtype."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    kind = {
        "BertForMaskedLM": transformers.AutoModelForMaskedLM,
        "T5ForConditionalGeneration": transformers.AutoModelForSeq2SeqLM,
        "LlavaForConditionalGeneration": transformers.AutoModelForImageTextToText,
        "Qwen2VLForConditionalGeneration": transformers.AutoModelForImageTextToText,
    }.get(architecture, transformers.AutoModelForCausalLM)
    with quiet():
        model: torch.nn.Module = kind.from_pretrained(folder, dtype="auto")
    return model


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Run a text through a model."""
    ids = torch.tensor([[1, 5, 9, 7, 12, 4, 6]])
    extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=ids, **extra).logits
    return result


@contextmanager
def quiet() -> Iterator[None]:
    """Switch the progress bars of transformers off."""
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.enable_progress_bar()


PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
OTHER = "{% for m in messages %}eats {{ m['content'] }} eats{% endfor %}"
"""A chat template that changes no prompt, and one with which a model of the zoo answers wrongly."""


def copy_of(name: str, folder: Path, template: str | None = None, **config: Any) -> Path:
    """Copy a model of the zoo, with another chat template and other values of its config."""
    shutil.copytree(zoo.path(name), folder)
    edit_config(folder, **config)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def edit_generation(folder: Path, **values: Any) -> None:
    """Set keys of a model's generation config."""
    edit_config(folder, "generation_config.json", **values)


def edit_tokenizer(folder: Path, **values: Any) -> None:
    """Set keys of a model's tokenizer config."""
    edit_config(folder, "tokenizer_config.json", **values)
