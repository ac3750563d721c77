"""The vLLM backend without vLLM: the tests use an engine that runs a transformers model."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import load, make
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, LlamaForCausalLM

from evomerge.errors import ConfigError
from evomerge.evaluate.evaluator import Evaluator
from evomerge.evaluate.inference.generation import Prompt, Stops, continue_greedily
from evomerge.evaluate.inference.vllm import (
    EngineForward,
    VllmEngine,
    Weights,
    _token_logprob,
    check_vllm,
    checkpoint_weights,
)
from evomerge.evaluate.tasks.harness import Harness, ReferenceLM


class Direct:
    """An engine of another model instance, which must be given the weights."""

    max_length = 161

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.asked = 0

    def load(self, weights: Weights) -> None:
        self.model.load_state_dict(dict(weights))

    def token_logprobs(self, texts: Sequence[Sequence[int]]) -> list[list[tuple[float, bool]]]:
        results = []
        for text in texts:
            self.asked += 1
            with torch.inference_mode():
                logits = self.model(torch.tensor([text[:-1]])).logits[0].log_softmax(-1)
            places = zip(logits, text[1:], strict=True)
            results.append([(float(row[t]), int(row.argmax()) == t) for row, t in places])
        return results

    def generate(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        generated = []
        for prompt in prompts:
            stops = Stops(self.tokenizer, prompt.stops)
            generated += continue_greedily(self.model, [prompt], stops, 0)
        return generated


NAMES = ("t_choice", "t_letter", "t_rolling", "t_generate")


def test_an_engine_gives_the_scores_of_the_hf_backend(
    make_model: Any, tokenizer: Any, tasks: Path
) -> None:
    candidate = make_model("llama", seed=4)
    splits = {"search": dict.fromkeys(NAMES, range(12))}
    plain = Evaluator(Harness(NAMES, [tasks]))
    plain.prepare(candidate, tokenizer, splits)
    expected = plain.score(candidate)
    served = Evaluator(Harness(NAMES, [tasks]))
    served.prepare(candidate, tokenizer, splits)
    engine = Direct(make_model("llama", seed=5), tokenizer)
    served.forward = EngineForward(ReferenceLM(candidate, tokenizer), engine)
    got = served.score(candidate)
    for key, value in expected.aggregates.items():
        assert got.aggregates[key] == pytest.approx(value, rel=1e-4)
    assert got.values["t_generate/exact_match"] == expected.values["t_generate/exact_match"]


def test_a_text_is_asked_for_once(llama: Any, tokenizer: Any, tasks: Path) -> None:
    evaluator = Evaluator(Harness(["t_choice"], [tasks]))
    evaluator.prepare(llama, tokenizer, {"search": {"t_choice": range(12)}})
    engine = Direct(llama, tokenizer)
    evaluator.forward = EngineForward(ReferenceLM(llama, tokenizer), engine)
    evaluator.score(llama)
    documents = evaluator.requests("search", "t_choice").values()
    assert engine.asked == len({r.instance.args for requests in documents for r in requests})


def test_sampling_is_refused(llama: Any, tokenizer: Any, tasks: Path) -> None:
    evaluator = Evaluator(Harness(["t_sample"], [tasks]))
    evaluator.prepare(llama, tokenizer, {"search": {"t_sample": range(3)}})
    documents = list(evaluator.requests("search", "t_sample").values())
    with pytest.raises(ConfigError, match=r"t_sample.*do_sample"):
        EngineForward(ReferenceLM(llama, tokenizer), Direct(llama, tokenizer)).check(
            llama, [documents]
        )


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_error_names_the_extra(llama: Any, tokenizer: Any, tasks: Path) -> None:
    evaluator = Evaluator(Harness(["t_choice"], [tasks]), backend="vllm")
    with pytest.raises(ConfigError, match=r"pip install 'evomerge\[vllm\]'"):
        evaluator.prepare(llama, tokenizer, {"search": {"t_choice": range(3)}})


def test_windows_leave_room_for_the_token_that_an_engine_adds(
    llama: Any, tokenizer: Any, tasks: Path
) -> None:
    """Texts that are longer than the model can read are still scored to the last token."""

    class Short(Direct):
        max_length = 40

        def token_logprobs(self, texts: Sequence[Sequence[int]]) -> Any:
            assert max(map(len, texts)) == self.max_length
            return super().token_logprobs(texts)

    def targets(evaluator: Evaluator) -> list[int]:
        documents = evaluator.requests("search", "t_rolling").values()
        return [sum(len(c.targets) for c in request.continuations) for (request,) in documents]

    made = []
    for served in (False, True):
        evaluator = Evaluator(Harness(["t_rolling"], [tasks]))
        evaluator.prepare(llama, tokenizer, {"search": {"t_rolling": range(40)}})
        if served:
            evaluator._requests.clear()
            evaluator.forward = EngineForward(evaluator._reference, Short(llama, tokenizer))
        made.append(evaluator)
    assert targets(made[0]) == targets(made[1])
    made[1].score(llama)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, llama: Any, tokenizer: Any) -> VllmEngine:
    """A `VllmEngine` on a substitute for vLLM that takes the same calls and gives such results."""

    class Options:
        def __init__(self, **options: Any) -> None:
            self.__dict__ = {"prompt_logprobs": None, "stop": [], **options}

    class LLM:
        def __init__(self, model: str, **options: Any) -> None:
            assert options["load_format"] == "dummy" and options["dtype"] == "float32"
            self.config = AutoConfig.from_pretrained(model)
            assert AutoTokenizer.from_pretrained(model).eos_token_id == 2
            assert GenerationConfig.from_pretrained(model).eos_token_id == 2
            self.model_config = SimpleNamespace(max_model_len=self.config.max_position_embeddings)
            self.model, self.calls = None, []

        def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
            self.calls.append(method)
            state = dict(kwargs["weights_iterator"])
            self.model = LlamaForCausalLM.from_pretrained(
                None, config=self.config, state_dict=state
            )

        def reset_prefix_cache(self) -> bool:
            self.calls.append("reset_prefix_cache")
            return True

        def generate(self, prompts: Any, options: Any, use_tqdm: bool) -> list[Any]:
            each = options if isinstance(options, list) else [options] * len(prompts)
            return [self._one(p["prompt_token_ids"], o) for p, o in zip(prompts, each, strict=True)]

        def _one(self, tokens: list[int], options: Any) -> Any:
            limit = options.max_tokens
            assert len(tokens) + limit <= self.model_config.max_model_len
            with torch.inference_mode():
                scores = self.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
            known: list[Any] = [None]
            for row, token in zip(scores[:-1], tokens[1:], strict=True):
                best = int(row.argmax())
                known.append(
                    {
                        i: SimpleNamespace(logprob=float(row[i]), rank=int((row >= row[i]).sum()))
                        for i in (token, best)
                    }
                )
            said: list[int] = []
            if options.prompt_logprobs is None:
                assert options.skip_special_tokens is False and options.stop_token_ids == [2]
                prompt = Prompt(tuple(tokens), tuple(options.stop), limit)
                stops = Stops(tokenizer, prompt.stops)
                (said,) = continue_greedily(self.model, [prompt], stops, 0)
            completion = SimpleNamespace(token_ids=tuple(said), text=None)
            return SimpleNamespace(prompt_logprobs=known, outputs=[completion])

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=Options))
    monkeypatch.setattr("evomerge.evaluate.inference.vllm.version", lambda package: "0.33.0")
    return VllmEngine(llama, tokenizer)


def test_the_calls_to_vllm_give_the_scores_of_the_hf_backend(
    engine: VllmEngine, make_model: Any, tokenizer: Any, tasks: Path
) -> None:
    candidate = make_model("llama", seed=4)
    splits = {"search": dict.fromkeys(NAMES, range(12))}
    scores = []
    for served in (False, True):
        evaluator = Evaluator(Harness(NAMES, [tasks]))
        evaluator.prepare(candidate, tokenizer, splits)
        if served:
            evaluator.forward = EngineForward(evaluator._reference, engine)
        scores.append(evaluator.score(candidate))
    for key, value in scores[0].aggregates.items():
        if not key.startswith("t_rolling"):  # its windows are cut a little shorter
            assert scores[1].aggregates[key] == pytest.approx(value, rel=1e-4)
    assert engine._llm.calls == ["reload_weights", "reset_prefix_cache"]


def test_a_cache_that_is_not_emptied_is_an_error(
    engine: VllmEngine, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._llm, "reset_prefix_cache", lambda: False)
    with pytest.raises(RuntimeError, match="prefix cache"):
        engine.load(checkpoint_weights(llama))


def test_tied_tokens_are_both_the_likeliest() -> None:
    entry = SimpleNamespace
    best = entry(logprob=-0.7, rank=2)
    assert _token_logprob(7, {7: entry(logprob=-0.7, rank=2), 3: best}) == (-0.7, True)
    assert _token_logprob(7, {7: entry(logprob=-0.8, rank=3), 3: best}) == (-0.8, False)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "gpt_neox", "llama"])
def test_weights_have_the_names_and_shapes_of_a_checkpoint(tmp_path: Path, kind: str) -> None:
    folder = make(tmp_path / kind, kind)
    stored = load_file(folder / "model.safetensors")
    given = dict(checkpoint_weights(load(folder)))
    assert given.keys() == stored.keys()
    assert all(torch.equal(given[name], stored[name]) for name in stored)


@pytest.mark.parametrize(
    ("found", "words"), [("0.15.1", "vLLM 0.15.1 cannot load weights"), (None, "is not installed")]
)
def test_a_vllm_that_cannot_serve_is_refused(
    monkeypatch: pytest.MonkeyPatch, found: str | None, words: str
) -> None:
    def version(package: str) -> str:
        if found is None:
            raise PackageNotFoundError(package)
        return found

    monkeypatch.setattr("evomerge.evaluate.inference.vllm.version", version)
    with pytest.raises(ConfigError, match=words + r".*pip install 'evomerge\[vllm\]'"):
        check_vllm()
