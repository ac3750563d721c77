"""Mixtures of experts: transformers loads them, and they compute what their parts compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from safetensors.torch import load_file
from torch.nn.functional import normalize

import evomerge
from evomerge.__main__ import run as call
from evomerge.errors import InputError

DATA = Path(__file__).parents[1] / "data"
PROMPTS = (["w1 w2 w3 w4", "w5 w6"], ["w7 w8 w9", "w10"])
SHAPES = {
    "llama": "mixtral",
    "mistral": "mixtral",
    "qwen2": "qwen2_moe",
    "qwen3": "qwen3_moe",
}


def write(folder: Path, base: Path, experts: list[Any], shared: Any = None, **keys: Any) -> Path:
    """Write the file of a mixture; an expert is its model, or a model with other keys."""

    def listed(items: list[Any]) -> list[dict[str, Any]]:
        found = [item if isinstance(item, tuple) else (item, {}) for item in items]
        return [
            {"source_model": str(model), "positive_prompts": PROMPTS[i % 2], **own}
            for i, (model, own) in enumerate(found)
        ]

    data: dict[str, Any] = {"base_model": str(base), "experts": listed(experts), **keys}
    if shared is not None:
        data["shared_experts"] = listed([shared])
    file = folder / "mixture.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@pytest.mark.parametrize("gates", ["cheap_embed", "hidden"])
def test_routers_are_those_of_mergekit_moe(gates, tmp_path):
    """mergekit computes hidden states in bfloat16, and embeddings exactly."""
    data = {
        "base_model": "zoo:base",
        "gate_mode": gates,
        "dtype": "float32",
        "experts": [
            {
                "source_model": "zoo:language",
                "positive_prompts": [
                    "emi wa kai 7 motsu . kau 9 . hajime ikutsu ? :",
                    "taro wa ringo 8 motsu . tsugi uru 7 . houkou ? :",
                ],
            },
            {
                "source_model": "zoo:maths",
                "positive_prompts": ["max has 9 stones . then loses 2 . howmany now ? :"],
            },
        ],
    }
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump(data))
    out = evomerge.moe(tmp_path / "mixture.yaml", tmp_path / "out")
    weights = load_file(out / "model.safetensors")
    found = [item for name, item in sorted(weights.items()) if name.endswith(".gate.weight")]
    theirs = load_file(DATA / "mergekit_moe_routers.safetensors")[gates]
    assert len(found) == 6
    for ours, wanted in zip(found, theirs.expand(6, -1, -1), strict=True):
        if gates == "cheap_embed":
            assert torch.equal(ours, wanted)
        torch.testing.assert_close(ours, wanted, atol=4e-3, rtol=0)


@pytest.fixture
def models(tmp_path, request) -> list[Path]:
    kind = getattr(request, "param", "llama")
    return [tiny.make(tmp_path / name, kind, seed=i) for i, name in enumerate("abc")]


@pytest.mark.filterwarnings("ignore:All experts are the same")
@pytest.mark.parametrize("models", SHAPES, indirect=True)
def test_a_mixture_of_one_model_is_this_model(models, tmp_path):
    base = models[0]
    kind = json.loads((base / "config.json").read_text())["model_type"]
    off = (models[1], {"residual_scale": 0.0}) if kind == "qwen2" else None
    out = evomerge.moe(write(tmp_path, base, [base] * 3, off), tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["model_type"] == SHAPES[kind]
    torch.testing.assert_close(tiny.logits(tiny.load(out)), tiny.logits(tiny.load(base)))


@pytest.mark.filterwarnings("ignore:All experts are the same")
def test_a_shared_expert_adds_its_output_times_a_sigmoid(models, tmp_path):
    """With a gate of zero it is half of the MLP: so two thirds of the dense model's are whole."""
    base = models[0]
    part = {"residual_scale": 2 / 3, "positive_prompts": ["w1"], "negative_prompts": ["w1"]}
    experts = [(base, {"residual_scale": 2 / 3})] * 2
    out = evomerge.moe(write(tmp_path, base, experts, (base, part)), tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["model_type"] == "qwen2_moe"
    torch.testing.assert_close(tiny.logits(tiny.load(out)), tiny.logits(tiny.load(base)))


def test_with_equal_routers_all_experts_give_their_mean(models, tmp_path):
    """Two experts with half of the neurons each, doubled, have the mean of a whole MLP."""
    base = models[0]

    def half(keep: slice, folder: str) -> Path:
        model = tiny.load(base)
        for layer in model.model.layers:
            kept = torch.zeros(layer.mlp.down_proj.weight.shape[1])
            kept[keep] = 2
            layer.mlp.down_proj.weight.data *= kept
        model.save_pretrained(tmp_path / folder)
        tiny.save_tokenizer(tmp_path / folder)
        return tmp_path / folder

    experts = [half(slice(0, 7), "first"), half(slice(7, None), "second")]
    same = [(model, {"positive_prompts": ["w3"]}) for model in experts]
    out = evomerge.moe(write(tmp_path, base, same), tmp_path / "out")
    torch.testing.assert_close(tiny.logits(tiny.load(out)), tiny.logits(tiny.load(base)))


@pytest.mark.parametrize("gates", ["hidden", "hidden_avg", "cheap_embed"])
def test_routers_are_hidden_states_of_prompts(gates, models, tmp_path):
    """As a plain loop of transformers finds them; so does mergekit-moe 0.1.5, up to bfloat16."""
    against = ["w20 w21", "w22"]
    experts = [models[1], (models[2], {"negative_prompts": against})]
    out = evomerge.moe(write(tmp_path, models[0], experts, gate_mode=gates), tmp_path / "out")
    base, found = tiny.load(models[0]), load_file(out / "model.safetensors")

    def states(prompts: list[str]) -> torch.Tensor:
        each = []
        for prompt in prompts:
            ids = torch.tensor([[tiny.WORDS.index(w) for w in ("<bos>", *prompt.split())]])
            with torch.no_grad():
                told = base(ids, output_hidden_states=True).hidden_states[:-1]
            kept = torch.stack(told)[:, 0]
            each.append(
                {"hidden": kept[:, -1], "hidden_avg": kept.mean(1)}.get(gates, kept[0].sum(0))
            )
        mean = torch.stack(each).mean(0)
        return normalize(mean, dim=-1).expand(3, -1) if gates == "cheap_embed" else mean

    for number, wanted in enumerate([states(PROMPTS[0]), states(PROMPTS[1]) - states(against)]):
        for layer in range(3):
            router = found[f"model.layers.{layer}.block_sparse_moe.gate.weight"][number]
            torch.testing.assert_close(router, normalize(wanted[layer], dim=-1))


@pytest.mark.parametrize("gates", ["random", "uniform_random"])
def test_random_routers_and_noise_depend_on_the_seed_only(gates, models, tmp_path):
    noisy = (models[1], {"noise_scale": 0.5, "positive_prompts": None})
    file = write(tmp_path, models[0], [noisy, models[2]], gate_mode=gates)
    weights = [
        load_file(evomerge.moe(file, tmp_path / f"{i}", seed=seed) / "model.safetensors")
        for i, seed in enumerate((1, 1, 2))
    ]
    assert all(torch.equal(weights[0][name], item) for name, item in weights[1].items())
    router, expert = ("model.layers.1.block_sparse_moe." + end for end in ("gate", "experts.0.w3"))
    assert not torch.equal(weights[0][f"{router}.weight"], weights[2][f"{router}.weight"])
    assert not torch.equal(weights[0][f"{expert}.weight"], weights[2][f"{expert}.weight"])
    noise = weights[0][f"{expert}.weight"] - tiny.load(models[1]).model.layers[1].mlp.up_proj.weight
    assert 0.4 < noise.std() < 0.6
    if gates == "uniform_random":
        assert 0.2 < weights[0][f"{router}.weight"].abs().max() <= 0.25  # 1 / sqrt(16)


def test_every_tensor_comes_from_its_model(models, tmp_path):
    file = write(tmp_path, *models[:1], [models[1], (models[2], {"residual_scale": 0.5})])
    call(["moe", str(file), "--out", str(tmp_path / "out"), "--shard-size", "9KB"])
    a, b, c = (load_file(folder / "model.safetensors") for folder in models)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    found = {name: item for shard in shards for name, item in load_file(shard).items()}
    assert len(shards) > 1
    for name, item in a.items():
        block, _, projection = name.partition("mlp.")
        if not projection:
            assert torch.equal(found.pop(name), item)
            continue
        short = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}[projection.split(".")[0]]
        experts = [found.pop(f"{block}block_sparse_moe.experts.{i}.{short}.weight") for i in (0, 1)]
        assert torch.equal(experts[0], b[name])
        assert torch.equal(experts[1], c[name] * (0.5 if short == "w2" else 1))
    assert len(found) == 3  # the routers
    tiny.load(tmp_path / "out")


def test_an_expert_may_have_an_adapter(tmp_path):
    maths = f"zoo:base+{Path(__file__).parents[2] / 'configs/adapters/maths'}"
    for name, model in (("adapter", maths), ("merged", str(tmp_path / "merged-maths"))):
        if name == "merged":
            recipe = {"merge_method": "linear", "models": [{"model": maths}]}
            recipe["models"][0]["parameters"] = {"weight": 1.0}
            (tmp_path / "merge.yaml").write_text(yaml.safe_dump({**recipe, "dtype": "float32"}))
            evomerge.merge(tmp_path / "merge.yaml", model)
        file = write(tmp_path, Path("zoo:base"), ["zoo:language", model], gate_mode="random")
        evomerge.moe(file, tmp_path / name)
    found, wanted = (
        load_file(tmp_path / name / "model.safetensors") for name in ("adapter", "merged")
    )
    assert all(torch.equal(found[name], item) for name, item in wanted.items())


def test_settings_that_the_base_leaves_to_its_default_stay(tmp_path, models):
    """Llama and Mixtral have other defaults of rope_theta, rms_norm_eps and others."""
    file = models[0] / "config.json"
    config = json.loads(file.read_text())
    for key in ("rope_parameters", "rope_theta", "rope_scaling", "rms_norm_eps"):
        config.pop(key, None)
    file.write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="All experts are the same"):
        out = evomerge.moe(write(tmp_path, models[0], [models[0]] * 2), tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["rope_theta"] == 10000
    torch.testing.assert_close(tiny.logits(tiny.load(out)), tiny.logits(tiny.load(models[0])))


def test_the_card_says_what_went_in_and_repeats_it(models, tmp_path, monkeypatch):
    experts = [("./b", {"residual_scale": 0.5}), "./c"]
    file = write(tmp_path, Path("./a"), experts, gate_mode="random")
    evomerge.moe(file, tmp_path / "out", seed=3)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| 0 | b | 0.5 | 0 |" in card and "those of `a`" in card and "seed 3" in card
    assert str(tmp_path) not in card
    monkeypatch.chdir(tmp_path / "out")
    evomerge.moe("mergekit_moe_config.yml", tmp_path / "again", seed=3)
    for name in ("model.safetensors", "config.json", "README.md", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_an_empty_prompt_is_the_token_that_begins_a_text(models, tmp_path):
    """As published files for random routers have it, and mergekit takes it in all modes."""
    empty = [(model, {"positive_prompts": [""]}) for model in models[1:]]
    evomerge.moe(write(tmp_path, models[0], empty, gate_mode="random"), tmp_path / "random")
    experts = [empty[0], models[2]]
    out = evomerge.moe(write(tmp_path, models[0], experts, gate_mode="cheap_embed"), tmp_path / "o")
    router = load_file(out / "model.safetensors")["model.layers.0.block_sparse_moe.gate.weight"]
    begin = tiny.load(models[0]).model.embed_tokens.weight[tiny.WORDS.index("<bos>")]
    torch.testing.assert_close(router[0], normalize(begin, dim=-1))
    settings = models[0] / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "bos_token": None}))
    with pytest.raises(InputError, match="The prompt '' has no token for the tokenizer"):
        evomerge.moe(tmp_path / "mixture.yaml", tmp_path / "none")


def test_routers_that_are_nearly_the_same_are_named(models, tmp_path):
    experts = [(model, {"positive_prompts": ["w3"]}) for model in models[1:]]
    file = write(tmp_path, models[0], experts, experts_per_token=1)
    with pytest.warns(UserWarning, match="In 3 of 3 layers two routers are nearly the same"):
        evomerge.moe(file, tmp_path / "out")


WRONG = {
    "unknown key": (
        {"gate": "hidden"},
        "Unknown key 'gate' in `the file .*; allowed are base_model",
    ),
    "unknown mode": ({"gate_mode": "hiden"}, "`gate_mode` is 'hiden'; .* Did you mean 'hidden'"),
    "no experts": ({"experts": None}, "`experts` is None; it must be a list"),
    "one expert": ({"experts": [{"source_model": "b"}]}, "`experts` has 1 entries; .* 2 or more"),
    "too few": ({"experts_per_token": 3}, "`experts_per_token` is 3; .* from 1 to 2"),
    "no prompts": (
        {"experts": [{"source_model": "b", "positive_prompts": ["x"]}, {"source_model": "c"}]},
        r"`experts\[1\]` has no `positive_prompts`, .* `gate_mode: random`",
    ),
    "unknown dtype": ({"dtype": "float8"}, "`dtype` is 'float8'; allowed are bfloat16"),
    "no experts in it": ({"dtype": "float64"}, "`dtype` is 'float64'; allowed are bfloat16, .*32"),
    "no mode": ({"gate_mode": ""}, "`gate_mode` is ''; allowed are hidden"),
    "not a list": ({"shared_experts": {}}, "`shared_experts` is {}; it must be a list"),
    "negative noise": (
        {"experts": [{"source_model": "b", "noise_scale": -1}, {"source_model": "c"}]},
        r"`experts\[0\].noise_scale` is -1.0; it must be a number from 0",
    ),
    "a number as prompt": (
        {"experts": [{"source_model": "b", "positive_prompts": [3]}, {"source_model": "c"}]},
        r"`experts\[0\].positive_prompts\[0\]` is 3; it must be text",
    ),
    "two shared": (
        {"shared_experts": [{"source_model": "b"}] * 2},
        "`shared_experts` has 2 entries; no mixture has more than one",
    ),
    "own code": ({"architecture": "DeepSeek MoE"}, "`architecture` is 'DeepSeek MoE'; .* Mixtral"),
    "other shape": (
        {"architecture": "qwen3"},
        "`base_model` 'a' is a llama, but .* of type qwen3;",
    ),
    "shared is needed": (
        {"architecture": "qwen moe"},
        "`shared_experts` has 0 entries, .* has exactly one; name one",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_sentence(case, models, tmp_path):
    change, sentence = WRONG[case]
    file = write(tmp_path, Path("./a"), ["./b", "./c"])
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **change}))
    with pytest.raises(InputError, match=sentence):
        evomerge.moe(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


OTHER_FILES = {
    "merge_method: linear\nmodels: []": r"file\.yaml is a mergekit file .*; `evomerge merge FILE",
    "parents: [a, b]\nspace: {}": "is a search file, .*; `evomerge search FILE --run DIR` runs it",
    "host: a\nlayers: {}": "is a recipe, .*; `evomerge merge FILE",
}


@pytest.mark.parametrize("text", OTHER_FILES)
def test_a_file_of_another_kind_is_named(text, tmp_path):
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(InputError, match=OTHER_FILES[text]):
        evomerge.moe(tmp_path / "file.yaml", tmp_path / "out")


MISFITS = {
    "biases": (
        "llama",
        {"mlp_bias": True},
        "Expert '.*/b' has the tensor '.*mlp.down_proj.bias', for which a Mixtral has no place",
    ),
    "other function": (
        "llama",
        {"hidden_act": "gelu"},
        "`hidden_act` is 'gelu' in the expert '.*/b', but 'silu' in the base",
    ),
    "other type": ("qwen3", {}, "'.*/a' is a llama, but '.*/b' is a qwen3; take models of one"),
    "other width": (
        "llama",
        {"intermediate_size": 32},
        r"gate_proj.weight' is \[32, 16\] in the expert",
    ),
    "other depth": ("llama", {"num_hidden_layers": 2}, "'.*/b' has 2 layers, but the base"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_experts_that_do_not_fit_are_one_sentence(case, tmp_path):
    kind, changes, sentence = MISFITS[case]
    base, other = tiny.make(tmp_path / "a"), tiny.make(tmp_path / "b", kind, **changes)
    with pytest.raises(InputError, match=sentence):
        evomerge.moe(write(tmp_path, base, [base, other]), tmp_path / "out")


BASES = {
    "no shape": (
        "gemma2",
        {},
        "is a gemma2, but a mixture is made from dense models of type llama, mistral",
    ),
    "biases": (
        "llama",
        {"attention_bias": True},
        "the tensor '.*0.self_attn.k_proj.bias' does not fit a Mix",
    ),
    "windows": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 9},
        "has a `sliding_window` of 9 tokens, and a Qwen3 MoE has it in other layers",
    ),
    "not dense": ("mixtral", {}, "is a mixtral, but a mixture is made from"),
    "too exact": ("llama", {"dtype": "float64"}, "is stored in float64, in which transformers"),
}


@pytest.mark.parametrize("case", BASES)
def test_a_base_of_which_no_mixture_can_be_made_is_one_sentence(case, tmp_path):
    kind, changes, sentence = BASES[case]
    base = tiny.make(tmp_path / "a", kind, **changes)
    with pytest.raises(InputError, match=sentence):
        evomerge.moe(write(tmp_path, base, [base, base]), tmp_path / "out")


def test_a_search_decides_how_much_of_a_model_each_expert_is(models, tmp_path):
    """Each expert has a weight of its own in each group of layers."""
    base, parent = (
        evomerge.moe(write(tmp_path, model, [model, model], gate_mode="random"), tmp_path / name)
        for model, name in zip(models, ("base", "parent"), strict=False)
    )
    config = {
        "parents": [str(parent)],
        "base": str(base),
        "dtype": "float32",
        "space": {
            "method": "task_arithmetic",
            "groups": "each",
            "components": ["expert_0", "expert_1"],
            "embeddings": False,
            "knobs": {"weight": [0.0, 1.0]},
        },
        "objectives": [{"told": "wins"}],
        "budget": {"candidates": 60},
    }
    with evomerge.Study(config, run=tmp_path / "run") as study:
        candidate = next(item for item in study if item.name == "optimizer" or study.tell(item, 0))
        weights = load_file(candidate.save(tmp_path / "out") / "model.safetensors")
    old, new = (load_file(folder / "model.safetensors") for folder in (base, parent))
    for layer in range(3):
        for part in ("expert_0", "expert_1", "rest"):
            inside = {"rest": "gate"}.get(part, f"experts.{part[-1]}.w1")
            name = f"model.layers.{layer}.block_sparse_moe.{inside}.weight"
            (gene,) = (
                value
                for key, value in candidate.genes.items()
                if f"[{layer}:{layer + 1}]" in key and part in key
            )
            wanted = old[name] + gene * (new[name] - old[name])
            torch.testing.assert_close(weights[name], wanted, atol=1e-6, rtol=1e-5)
