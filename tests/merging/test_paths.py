"""Paths built in memory and on disk give the same model, for every architecture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from model_digest import digest
from paths import parse_path

from evomerge.errors import CheckpointError, RecipeError
from evomerge.merging.architecture.folding import rules_for
from evomerge.merging.resident import Resident
from evomerge.merging.writer import write_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source
from evomerge.space.paths.path import layers_of

pytestmark = pytest.mark.thorough

LEGEND = {"A": "a", "B": "b"}
ARCHITECTURES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "olmo2", "gpt_neox",
    "gpt2", "granite", "smollm3", "mixtral", "qwen3_moe",
)  # fmt: skip
PLAIN = "A0-1 B0 A1 B1-2"
# Folding is exact apart from the epsilon of the norms. In OLMo 2, whose norms follow the branches,
# random weights of this size would make the effect of epsilon large.
CHANGES = {"olmo2": {"rms_norm_eps": 1e-8}}
SCALED = "A0 B0x0.8 A1-2x1.3 B1x0.7 B1x1.2 A2x0.9"
PROMPT = torch.tensor([[1, 5, 9, 7, 12, 4, 6]])


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[tuple[str, str], dict[str, Checkpoint]] = {}

    def get(architecture: str, dtype: str = "float32") -> dict[str, Checkpoint]:
        if (architecture, dtype) not in made:
            folder = tmp_path_factory.mktemp(architecture)
            made[architecture, dtype] = {
                name: Checkpoint.open(
                    tiny.make(
                        folder / name,
                        architecture,
                        seed=seed,
                        dtype=dtype,
                        **CHANGES.get(architecture, {}),
                    ),
                    name,
                )
                for seed, name in enumerate("ab")
            }
        return made[architecture, dtype]

    return get


def recipe(path: str, checkpoints: dict[str, Checkpoint], dtype: str = "float32") -> Recipe:
    whole = Layer("passthrough", (Source("a"),))
    layers = layers_of(parse_path(path, LEGEND))
    stack = checkpoints["a"].decoder_stack.prefix
    return Recipe("a", {stack: layers}, embeddings=whole, head=whole, dtype=dtype)


@contextmanager
def scaled_states(model: Any, scales: list[float]) -> Iterator[None]:
    """Multiply the hidden state by a scale before each block, which is the definition of scales."""
    lists = [item for item in model.modules() if isinstance(item, torch.nn.ModuleList)]
    blocks = next(item for item in lists if len(item) == len(scales))

    def enter(scale: float) -> Any:
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


def log_likelihoods(model: Any, ids: torch.Tensor = PROMPT) -> torch.Tensor:
    with torch.no_grad():
        scores = torch.log_softmax(model.eval()(input_ids=ids).logits.double(), dim=-1)
    return scores[0, :-1].gather(1, ids[0, 1:, None])[:, 0]


def greedy(model: Any, cache: bool = True, dtype: Any = None) -> list[int]:
    with torch.no_grad():
        found: torch.Tensor = model.eval().generate(
            PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=12, do_sample=False,
            use_cache=cache, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    return found[0].tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("path", [PLAIN, SCALED])
def test_memory_disk_and_stock_transformers_hold_one_model(
    parents: Any, architecture: str, path: str, tmp_path: Path
) -> None:
    checkpoints = parents(architecture)
    wanted = recipe(path, checkpoints)
    resident = Resident(checkpoints, "a", "float32")
    model = resident.apply(wanted)
    write_model(wanted, checkpoints, tmp_path / "out")
    loaded: Any = tiny.load(tmp_path / "out")
    state, stored = model.state_dict(), loaded.state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[name], stored[name]) for name in state)
    assert torch.equal(tiny.logits(model), tiny.logits(loaded))
    assert greedy(model) == greedy(loaded) == greedy(model, cache=False)
    assert len(stored) and loaded.config.num_hidden_layers == len(path.split()) + path.count("-")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folded_weights_stand_for_scaled_states(
    parents: Any, architecture: str, tmp_path: Path
) -> None:
    checkpoints = parents(architecture)
    hops = parse_path(SCALED, LEGEND)
    folded: Any = Resident(checkpoints, "a", "float32").apply(recipe(SCALED, checkpoints))
    plain: Any = Resident(checkpoints, "a", "float32").apply(
        recipe(" ".join(word.split("x")[0] for word in SCALED.split()), checkpoints)
    )
    texts = greedy(folded)
    unscaled = log_likelihoods(plain)
    with scaled_states(plain, [hop.scale for hop in hops]):
        assert greedy(plain) == texts
        literal = log_likelihoods(plain)
    relative = (log_likelihoods(folded) - literal).abs() / literal.abs()
    assert relative.max() < 1e-4
    assert (unscaled - literal).abs().max() > 1e-2  # the scales do matter


def test_the_last_candidate_leaves_no_trace(parents: Any) -> None:
    checkpoints = parents("llama")
    resident = Resident(checkpoints, "a", "float32")
    first = resident.apply(recipe(PLAIN, checkpoints))
    before = digest(resident.module)
    resident.apply(recipe("A0x0.5 A1x0.5 B2x1.1 A2 B0 B1", checkpoints))
    assert resident.apply(recipe(PLAIN, checkpoints)) is first
    assert digest(resident.module) == before


def test_merged_blocks_may_be_scaled(parents: Any, tmp_path: Path) -> None:
    checkpoints = parents("llama")
    whole = Layer("passthrough", (Source("a"),))

    def mixed(layer: int, weight: float, scale: float) -> Layer:
        sources = (
            Source("a", layer, {"weight": 1 - weight}),
            Source("b", layer, {"weight": weight}),
        )
        return Layer("linear", sources, scale=scale)

    blocks = (mixed(0, 0.3, 1.0), mixed(1, 0.5, 0.9), mixed(1, 0.5, 1.0), mixed(2, 0.9, 1.2))
    wanted = Recipe("a", {"model.layers": blocks}, embeddings=whole, head=whole, dtype="float32")
    model = Resident(checkpoints, "a", "float32").apply(wanted)
    write_model(wanted, checkpoints, tmp_path / "out")
    stored = tiny.load(tmp_path / "out").state_dict()
    assert all(torch.equal(item, stored[name]) for name, item in model.state_dict().items())


def test_a_parent_with_nan_weights_is_at_fault(parents: Any, tmp_path: Path) -> None:
    checkpoints = dict(parents("llama"))
    folder = tiny.make(tmp_path / "bad", "llama", seed=3)
    name = "model.layers.1.mlp.up_proj.weight"
    tiny.rewrite(folder, lambda tensors: tensors[name].view(-1)[3:5].fill_(float("nan")))
    checkpoints["b"] = Checkpoint.open(folder, "b")
    resident = Resident(checkpoints, "a", "float32")
    with pytest.raises(CheckpointError, match="2 of 384 weights of 'b' are NaN"):
        resident.apply(recipe("A0 B1 A2", checkpoints))
    resident.apply(recipe("A0 B0 A2", checkpoints))


def test_what_cannot_fold_is_refused_before_any_compute(tmp_path: Path) -> None:
    import transformers

    config = transformers.OpenAIGPTConfig(vocab_size=48, n_embd=16, n_layer=3, n_head=2)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with tiny.quiet():
        model.save_pretrained(tmp_path / "gpt")
    host = Checkpoint.open(tmp_path / "gpt", "gpt")
    with pytest.raises(CheckpointError, match=r"'gpt' cannot be scaled.*space.scales: 1.0"):
        rules_for(host, host.decoder_stack.prefix)


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ("qwen3", None),
        (
            "bert",
            r"no change of its weights has the effect of a scale of 2\.5 after the last block",
        ),
        ("t5", r"on a small model of its architecture, which cannot be made or run"),
    ],
)
def test_encoders_fold_or_are_refused_in_words(
    tmp_path: Path, architecture: str, why: str | None
) -> None:
    """Without a head there are no logits; what Python says of that helps nobody."""
    import transformers

    folder = tiny.make(tmp_path / "whole", architecture)
    with tiny.quiet():
        transformers.AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "encoder")
    host = Checkpoint.open(tmp_path / "encoder", "encoder")
    prefix = next(iter(host.stacks))
    if why is None:
        whole = Checkpoint.open(folder, "whole")
        assert rules_for(host, prefix) == rules_for(whole, whole.decoder_stack.prefix) != {}
        return
    with pytest.raises(CheckpointError, match=rf"between blocks: [^()]*{why}; set `space\.scales"):
        rules_for(host, prefix)


def test_products_near_zero_are_refused(parents: Any) -> None:
    checkpoints = parents("llama")
    path = "A0 " + " ".join(["A1x0.01"] * 4)
    with pytest.raises(RecipeError, match="multiply to 1e-08"):
        Resident(checkpoints, "a", "float32").apply(recipe(path, checkpoints))


@pytest.mark.parametrize(
    ("architecture", "key", "changes", "wanted"),
    [
        ("gemma3", "layer_types", {}, ["full_attention", "sliding_attention", "full_attention"]),
        ("smollm3", "no_rope_layers", {"no_rope_layers": [1, 0, 1]}, [0, 1, 0]),
        (
            "qwen2",
            "layer_types",  # as older configs have it: to be derived from the layer's position
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
            ["sliding_attention", "full_attention", "sliding_attention"],
        ),
    ],
)
def test_a_block_keeps_its_kind_wherever_it_stands(
    architecture: str, key: str, changes: dict[str, Any], wanted: list[Any], tmp_path: Path
) -> None:
    folder = tiny.make(tmp_path / "a", architecture, sliding_window=4)
    if changes:
        file = folder / "config.json"
        config = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({k: v for k, v in config.items() if k != "layer_types"}))
    checkpoints = {"a": Checkpoint.open(folder, "a")}
    path = recipe("A1 A0 A1", checkpoints)
    model: Any = Resident(checkpoints, "a", "float32").apply(path)
    write_model(path, checkpoints, tmp_path / "out")
    loaded: Any = tiny.load(tmp_path / "out")
    assert getattr(loaded.config, key) == wanted == getattr(model.config, key)
    assert torch.equal(tiny.logits(model), tiny.logits(loaded))
