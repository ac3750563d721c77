"""Folded weights stand for scaled hidden states, for every architecture."""

import json
from contextlib import contextmanager
from functools import partial

import pytest
import tiny
import torch
import transformers
from draws import few
from spaces import parse_path

from evomerge.errors import CheckpointError, RecipeError
from evomerge.merging.architecture.folding import rules_for
from evomerge.merging.resident import Resident
from evomerge.merging.writer import write_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source
from evomerge.space.paths import layers_of

pytestmark = pytest.mark.thorough

LEGEND = {"A": "a", "B": "b"}
ARCHITECTURES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "olmo2", "gpt_neox",
    "gpt2", "granite", "smollm3", "mixtral", "qwen3_moe",
)  # fmt: skip
# Folding is exact apart from the epsilon of the norms. In OLMo 2, whose norms follow the branches,
# random weights of this size would make the effect of epsilon large.
CHANGES = {"olmo2": {"rms_norm_eps": 1e-8}}
SCALED = "A0 B0x0.8 A1-2x1.3 B1x0.7 B1x1.2 A2x0.9"
PROMPT = torch.tensor([[1, 5, 9, 7, 12, 4, 6]])


def recipe(path, checkpoints):
    whole = Layer("passthrough", (Source("a"),))
    layers = layers_of(parse_path(path, LEGEND))
    stack = checkpoints["a"].decoder_stack.prefix
    return Recipe("a", {stack: layers}, embeddings=whole, head=whole, dtype="float32")


@contextmanager
def scaled_states(model, scales):
    """Multiply the hidden state by a scale before each block, which is the definition of scales."""
    lists = [item for item in model.modules() if isinstance(item, torch.nn.ModuleList)]
    blocks = next(item for item in lists if len(item) == len(scales))

    def enter(scale):
        return lambda module, args, kwargs: (
            ((args[0] * scale, *args[1:]), kwargs)
            if args
            else (args, {**kwargs, "hidden_states": kwargs["hidden_states"] * scale})
        )

    handles = [
        block.register_forward_pre_hook(enter(scale), with_kwargs=True)
        for block, scale in zip(blocks, scales, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def log_likelihoods(model):
    with torch.no_grad():
        scores = torch.log_softmax(model.eval()(input_ids=PROMPT).logits.double(), dim=-1)
    return scores[0, :-1].gather(1, PROMPT[0, 1:, None])[:, 0]


@pytest.mark.parametrize(
    "architecture", few(ARCHITECTURES, ("llama", "gemma2", "olmo2", "gpt_neox", "gpt2", "mixtral"))
)
def test_folded_weights_stand_for_scaled_states(pair, architecture):
    checkpoints = pair(architecture, **CHANGES.get(architecture, {}))
    unscaled = " ".join(word.split("x")[0] for word in SCALED.split())
    folded, plain = (
        Resident(checkpoints, "a", "float32").apply(recipe(path, checkpoints))
        for path in (SCALED, unscaled)
    )
    before = log_likelihoods(plain)
    with scaled_states(plain, [hop.scale for hop in parse_path(SCALED, LEGEND)]):
        literal = log_likelihoods(plain)
    assert ((log_likelihoods(folded) - literal).abs() / literal.abs()).max() < 1e-4
    assert (before - literal).abs().max() > 1e-2  # the scales do matter


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ("openai-gpt", "has the effect of a scale of 2.5 after the last block; set"),
        ("bert", "the effect of a scale of 2.5 after the last block; set"),
        ("t5", "on a small model of its architecture, which cannot be made or run; set"),
        ("qwen3", None),
    ],
)
def test_models_without_a_head_and_older_ones_fold_or_are_refused(tmp_path, architecture, why):
    """Without a head there are no logits; what Python says of that helps nobody."""
    whole, folder = tmp_path / "whole", tmp_path / "host"
    with tiny.quiet():
        if architecture == "openai-gpt":
            config = transformers.OpenAIGPTConfig(vocab_size=48, n_embd=16, n_layer=3, n_head=2)
            model = transformers.AutoModelForCausalLM.from_config(config)
        else:
            model = transformers.AutoModel.from_pretrained(tiny.make(whole, architecture))
        model.save_pretrained(folder)
    host = Checkpoint.open(folder, "host")
    rules = partial(rules_for, host, next(iter(host.stacks)))
    if why is None:
        same = Checkpoint.open(whole, "whole")
        assert rules() == rules_for(same, same.decoder_stack.prefix) != {}
        return
    with pytest.raises(CheckpointError, match=rf"'host' cannot be scaled.*{why} `space.scales: 1"):
        rules()


def test_products_near_zero_are_refused(pair):
    path = recipe("A0 A1x0.01 A1x0.01 A1x0.01 A1x0.01", pair())
    with pytest.raises(RecipeError, match="multiply to 1e-08"):
        Resident(pair(), "a", "float32").apply(path)


def test_a_block_keeps_its_kind_wherever_it_stands(tmp_path):
    """In older configs, it is to be derived from the position of the block."""
    folder = tiny.make(tmp_path / "a", "qwen2")
    config = json.loads((folder / "config.json").read_text())
    config |= {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    checkpoints = {"a": Checkpoint.open(folder, "a")}
    path = recipe("A1 A0 A1", checkpoints)
    write_model(path, checkpoints, tmp_path / "out")
    models = Resident(checkpoints, "a", "float32").apply(path), tiny.load(tmp_path / "out")
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    assert [model.config.layer_types for model in models] == [kinds, kinds]
    assert torch.equal(*map(tiny.logits, models))
