"""Merges and fine-tunes as LoRA adapters: PEFT gives the model of the merge."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file
from search_run import write_search

import evomerge
from evomerge.__main__ import run as call
from evomerge.errors import CheckpointError, InputError, RecipeError
from evomerge.evaluation.inference.vllm_start import _shielded, installed_vllm
from evomerge.export.adapter import _in_vllm

TOKENS = torch.arange(12)[None]


def logits(model: Any) -> torch.Tensor:
    return model(TOKENS).logits.detach()


def adapted(base: Path, adapter: Path) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return logits(peft.PeftModel.from_pretrained(loaded(base), adapter))


def vllm_engine(base: Path) -> Any:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    with _shielded():
        from vllm import LLM

        sizes = {"max_num_batched_tokens": 64, "max_num_seqs": 2, "kv_cache_memory_bytes": 2**26}
        options = {"enable_lora": True, "max_lora_rank": 8, "enforce_eager": True, "block_size": 32}
        return LLM(model=str(base), dtype="float32", **options, **sizes)


def vllm_answer(engine: Any, adapter: Path | None = None) -> tuple[torch.Tensor, list[int]]:
    """Return log-probabilities of the prompt's tokens but the first, and the text behind it."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    request = LoRARequest(adapter.name, 1 + len(adapter.name), str(adapter)) if adapter else None
    options = SamplingParams(
        temperature=0.0, max_tokens=8, prompt_logprobs=1, detokenize=False, ignore_eos=True
    )
    prompt = {"prompt_token_ids": TOKENS[0].tolist()}
    (output,) = engine.generate([prompt], options, use_tqdm=False, lora_request=request)
    known = zip(TOKENS[0, 1:].tolist(), output.prompt_logprobs[1:], strict=True)
    scores = torch.tensor([float(entries[token].logprob) for token, entries in known])
    return scores, list(output.outputs[0].token_ids)


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def fine_tune(base: Path, out: Path, rank: int, *, vectors: bool = True, seed: int = 0) -> Path:
    """Write a model whose matrices differ from the base by this rank."""
    generator = torch.Generator().manual_seed(seed)
    model = loaded(base)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            left = torch.randn(weight.shape[0], rank, generator=generator)
            weight.data += 0.05 * left @ torch.randn(rank, weight.shape[1], generator=generator)
        elif vectors:
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
        assert name
    model.save_pretrained(out)
    tiny.save_tokenizer(out)
    return out


def save(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    tiny.save_tokenizer(folder)
    return folder


def gpt2() -> Any:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=tiny.VOCABULARY, **sizes)
    )


def llama(*, tied: bool) -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "attention_bias": True, "tie_word_embeddings": tied}
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=tiny.VOCABULARY, **sizes, **heads)
    )


@pytest.mark.parametrize("kind", ["llama", "tied llama", "gpt2"])
def test_peft_loads_what_was_extracted(kind, tmp_path):
    torch.manual_seed(0)
    made = gpt2() if kind == "gpt2" else llama(tied=kind == "tied llama")
    base = save(tmp_path / "base", made)
    tuned = fine_tune(base, tmp_path / "tuned", 3)
    written = evomerge.extract(base, tuned, tmp_path / "adapter", rank=8)
    assert written.rank == 3 and written.error < 1e-4
    expected = logits(loaded(tuned))
    assert not torch.allclose(logits(loaded(base)), expected, atol=0.1)
    torch.testing.assert_close(adapted(base, tmp_path / "adapter"), expected, rtol=1e-4, atol=1e-4)
    # As a parent it is the fine-tune, too.
    parent = f"{base}+{tmp_path / 'adapter'}"
    recipe = {"models": [{"model": parent, "parameters": {"weight": 1}}]}
    recipe |= {"merge_method": "linear", "dtype": "float32"}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    evomerge.merge(tmp_path / "recipe.yaml", tmp_path / "again")
    torch.testing.assert_close(logits(loaded(tmp_path / "again")), expected, rtol=1e-4, atol=1e-4)


def test_what_the_rank_cuts_is_the_smallest_singular_values(tmp_path, capsys):
    base = tiny.make(tmp_path / "base")
    tuned = fine_tune(base, tmp_path / "tuned", 6, vectors=False)
    out = tmp_path / "adapter"
    assert call(["extract", str(base), str(tuned), "--rank", "2", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    lost, size = 0.0, 0.0
    old, new = (load_file(folder / "model.safetensors") for folder in (base, tuned))
    for name in new:
        if new[name].ndim == 2 and not torch.equal(old[name], new[name]):
            values = torch.linalg.svdvals(new[name].double() - old[name].double())
            lost, size = lost + float((values[2:] ** 2).sum()), size + float((values**2).sum())
    assert found["rank"] == 2
    assert found["error"] == pytest.approx((lost / size) ** 0.5, rel=1e-4)
    card = (out / "README.md").read_text()
    assert f"lacks {100 * found['error']:.1f} % of the change" in card
    assert str(tmp_path) not in card


def lora(base: Path, out: Path, rank: int, seed: int, **options: Any) -> str:
    """Save a random adapter and return the reference of the parent."""
    torch.manual_seed(seed)
    settings = peft.LoraConfig(
        r=rank, target_modules=["q_proj", "down_proj"], init_lora_weights=False, **options
    )
    peft.get_peft_model(loaded(base), settings).save_pretrained(out)
    return f"{base}+{out}"


@pytest.mark.parametrize("form", ["task_arithmetic", "linear"])
def test_a_merge_of_adapters_is_an_adapter_that_loses_nothing(form, tmp_path):
    base = tiny.make(tmp_path / "base")
    parents = [lora(base, tmp_path / f"lora-{rank}", rank, rank) for rank in (2, 3)]
    models = [
        {"model": name, "parameters": {"weight": weight}}
        for name, weight in zip(parents, (0.4, 0.9), strict=True)
    ]
    recipe = {"models": models, "merge_method": form, "dtype": "float32"}
    recipe |= {"base_model": str(base)} if form == "task_arithmetic" else {}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    written = evomerge.merge_adapter(tmp_path / "recipe.yaml", tmp_path / "adapter")
    evomerge.merge(tmp_path / "recipe.yaml", tmp_path / "merged")
    assert written.rank == 5 and written.error < 1e-4
    found = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(found) == 2 * 2 * 3  # two matrices of two modules in three layers
    torch.testing.assert_close(
        adapted(base, tmp_path / "adapter"),
        logits(loaded(tmp_path / "merged")),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_search_over_adapters_is_exported_as_one(tmp_path, capsys):
    base = tiny.make(tmp_path / "base")
    parents = [lora(base, tmp_path / f"lora-{rank}", rank, rank) for rank in (2, 3)]
    file = write_search(tmp_path, parents=parents, base=str(base))
    run, out = tmp_path / "run", tmp_path / "adapter"
    assert call(["search", str(file), "--run", str(run)]) == 0
    best = evomerge.Run(run).candidates.query("origin == 'optimizer'").index[0]
    some = ["export", str(run), "--candidate", str(best)]
    capsys.readouterr()
    assert call([*some, "--as", "adapter", "--out", str(out)]) == 0
    assert "wrote an adapter of rank 5" in capsys.readouterr().err
    assert call([*some, "--out", str(tmp_path / "model"), "--dtype", "float32"]) == 0
    torch.testing.assert_close(
        adapted(base, out), logits(loaded(tmp_path / "model")), rtol=1e-4, atol=1e-4
    )
    assert f"candidate {best} of a search" in (out / "README.md").read_text()
    assert (out / "evomerge_recipe.yaml").is_file()
    no = ["--out", str(tmp_path / "no")]
    with pytest.raises(InputError, match="--rank is 4, but a checkpoint has no rank"):
        call([*some, *no, "--rank", "4"])
    with pytest.raises(InputError, match="--dtype has no effect on an adapter"):
        call([*some, *no, "--as", "adapter", "--dtype", "float16"])
    # A parent itself: the base is that of the search.
    assert call(["export", str(run), "--candidate", "0", "--as", "adapter", *no]) == 0
    assert "wrote an adapter of rank 2" in capsys.readouterr().err


def test_what_no_adapter_can_change_is_refused(tmp_path):
    base = tiny.make(tmp_path / "base")
    deeper = tiny.make(tmp_path / "deeper", num_hidden_layers=4)
    with pytest.raises(CheckpointError, match=r"has 4 layers and .* has 3, but an adapter"):
        evomerge.extract(base, deeper, tmp_path / "out", rank=4)
    with pytest.raises(CheckpointError, match="changes no matrix in"):
        evomerge.extract(base, base, tmp_path / "out", rank=4)
    wider = tiny.make(tmp_path / "wider", intermediate_size=40)
    with pytest.raises(CheckpointError, match=r"tensor '.*mlp.*' has shape .* and .* in .*base'"):
        evomerge.extract(base, wider, tmp_path / "out", rank=4)
    for rank in (0, 2.5, True):
        with pytest.raises(InputError, match=f"--rank is {rank}; it must be a whole number, 1 or"):
            evomerge.extract(base, deeper, tmp_path / "out", rank=rank)
    recipe = {"models": [{"model": str(base), "parameters": {"weight": 1}}]}
    recipe |= {"merge_method": "linear", "dtype": "float32"}
    other = tiny.make(tmp_path / "other", seed=1)
    recipe["models"].append({"model": str(other), "parameters": {"weight": 1}})
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    with pytest.raises(InputError, match=rf"needs a base, .* since '{base}' and '{other}' are two"):
        evomerge.merge_adapter(tmp_path / "recipe.yaml", tmp_path / "out", rank=2)
    assert not (tmp_path / "out").exists()


@tiny.since_transformers_5  # before, each expert has matrices of its own
def test_experts_in_one_tensor_are_refused(tmp_path):
    base, other = (tiny.make(tmp_path / f"moe-{i}", "mixtral", seed=i) for i in range(2))
    with pytest.raises(CheckpointError, match="is not a whole tensor"):
        evomerge.extract(base, other, tmp_path / "out", rank=4)


def test_what_mergekit_ignores_in_a_file_is_said(tmp_path, capsys):
    base = tiny.make(tmp_path / "base")
    parent = lora(base, tmp_path / "lora", 2, 0)
    recipe = {"models": [{"model": parent, "parameters": {"weight": 1, "colour": 1}}]}
    recipe |= {"merge_method": "linear", "dtype": "float32"}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    arguments = ["merge", str(tmp_path / "recipe.yaml"), "--as", "adapter", "--out"]
    assert call([*arguments, str(tmp_path / "adapter")]) == 0
    assert "warning: " in (said := capsys.readouterr().err) and "colour" in said
    with pytest.raises(RecipeError, match="`--strict` allows no warnings"):
        call([*arguments, str(tmp_path / "no"), "--strict"])


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_are_left_out_on_request_and_counted_as_lost(tied, tmp_path):
    base = tiny.make(tmp_path / "base", tied=tied)
    tuned = fine_tune(base, tmp_path / "tuned", 3)
    for name, without in (("whole", False), ("layers", True)):
        found = evomerge.extract(base, tuned, tmp_path / name, rank=4, without_embeddings=without)
        tensors = load_file(tmp_path / name / "adapter_model.safetensors")
        assert any("embed" in key or "lm_head" in key for key in tensors) is not without
        assert (found.by_layer["model.embed_tokens.weight"] == 1) is without
        assert found.by_layer["model.layers.0"] < 1e-4
    assert found.error > 0.1


def test_norms_are_left_out_on_request_and_counted_as_lost(tmp_path, capsys):
    base = tiny.make(tmp_path / "base")
    tuned = fine_tune(base, tmp_path / "tuned", 3)
    arguments = ["extract", str(base), str(tuned), "--rank", "4", "--matrices-only", "--json"]
    assert call([*arguments, "--out", str(tmp_path / "adapter")]) == 0
    found = json.loads(capsys.readouterr().out)
    lost, size = 0.0, 0.0
    old, new = (load_file(folder / "model.safetensors") for folder in (base, tuned))
    for name in new:
        change = float((new[name].double() - old[name].double()).square().sum())
        lost, size = lost + change * (new[name].ndim == 1), size + change
    assert found["error"] == pytest.approx((lost / size) ** 0.5, rel=1e-4)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["modules_to_save"] is None
    assert "--max-lora-rank 8" in (tmp_path / "adapter" / "README.md").read_text()
    assert "rank is above 512" in _in_vllm({**config, "r": 513}, None)[0]
    assert "--without-embeddings" in (tmp_path / "adapter" / "README.md").read_text()
    evomerge.extract(base, tuned, tmp_path / "whole", rank=4)
    assert "vLLM does not load it" in (tmp_path / "whole" / "README.md").read_text()
    only = save(tmp_path / "norms", loaded(base))
    tensors = load_file(only / "model.safetensors")
    save_file(
        {name: item + (item.ndim == 1) for name, item in tensors.items()},
        only / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(CheckpointError, match="changes no matrix in"):
        evomerge.extract(base, only, tmp_path / "no", rank=4, matrices_only=True)


@pytest.mark.skipif(installed_vllm() is None, reason="vLLM is not installed")
@pytest.mark.parametrize(
    ("kind", "tied", "options"),
    [("llama", False, {}), ("llama", True, {}), ("qwen2", True, {"without_embeddings": True})],
)
def test_vllm_answers_with_an_adapter_as_peft_does(kind, tied, options, tmp_path):
    sizes = {"head_dim": 32, "hidden_size": 64}
    base = tiny.make(tmp_path / "base", kind, tied=tied, **sizes)
    tuned = fine_tune(base, tmp_path / "tuned", 5)
    evomerge.extract(base, tuned, tmp_path / "extracted", rank=8, matrices_only=True, **options)
    evomerge.extract(base, tuned, tmp_path / "whole", rank=8)
    parents = [
        lora(base, tmp_path / f"lora-{rank}", rank, rank, layers_to_transform=[rank - 2])
        for rank in (2, 3)
    ]
    models = [{"model": name, "parameters": {"weight": 0.7}} for name in parents]
    recipe = {"models": models, "merge_method": "linear", "dtype": "float32"}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    evomerge.merge_adapter(tmp_path / "recipe.yaml", tmp_path / "merged")
    config = json.loads((tmp_path / "merged" / "adapter_config.json").read_text())
    assert "model.layers.1.mlp.down_proj" in config["target_modules"]  # not of all layers
    engine = vllm_engine(base)
    plain, _ = vllm_answer(engine)
    for name in ("extracted", "merged"):
        scores, text = vllm_answer(engine, tmp_path / name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.PeftModel.from_pretrained(loaded(base), tmp_path / name).eval()
        expected = logits(model)[0, :-1].log_softmax(-1).gather(-1, TOKENS[0, 1:, None])
        torch.testing.assert_close(scores, expected[:, 0], rtol=0, atol=2e-5)
        assert (scores - plain).abs().mean() > 0.01
        written = TOKENS
        for _ in text:
            written = torch.cat([written, model(written).logits[:, -1:].argmax(-1)], 1)
        assert written[0, TOKENS.shape[1] :].tolist() == text
    with pytest.raises(ValueError, match="vLLM only supports modules_to_save being either None"):
        vllm_answer(engine, tmp_path / "whole")
