"""The vLLM backend, as far as it goes without vLLM: an engine that runs the model itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.errors import ConfigError
from evomerge.evaluate.evaluator import Evaluator
from evomerge.evaluate.generation import Prompt, Stops, continue_greedily
from evomerge.evaluate.harness import Harness, Stock
from evomerge.evaluate.vllm import Served, Weights


class Direct:
    """An engine of another model instance, which must be given the weights."""

    longest = 150

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.asked = 0

    def load(self, weights: Weights) -> None:
        self.model.load_state_dict(dict(weights))

    def predictions(self, texts: Sequence[Sequence[int]]) -> list[list[tuple[float, bool]]]:
        results = []
        for text in texts:
            self.asked += 1
            with torch.inference_mode():
                logits = self.model(torch.tensor([text[:-1]])).logits[0].log_softmax(-1)
            places = zip(logits, text[1:], strict=True)
            results.append([(float(row[t]), int(row.argmax()) == t) for row, t in places])
        return results

    def continuations(self, prompts: Sequence[Prompt]) -> list[str]:
        texts = []
        for prompt in prompts:
            stops = Stops(self.tokenizer, prompt.stops)
            (tokens,) = continue_greedily(self.model, [prompt], stops, 0)
            texts.append(self.tokenizer.decode(tokens, skip_special_tokens=True))
        return texts


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
    served.forward = Served(Stock(candidate, tokenizer), engine)
    got = served.score(candidate)
    for key, value in expected.aggregates.items():
        assert got.aggregates[key] == pytest.approx(value, rel=1e-4)
    assert got.values["t_generate/exact_match"] == expected.values["t_generate/exact_match"]


def test_a_text_is_asked_for_once(llama: Any, tokenizer: Any, tasks: Path) -> None:
    evaluator = Evaluator(Harness(["t_choice"], [tasks]))
    evaluator.prepare(llama, tokenizer, {"search": {"t_choice": range(12)}})
    engine = Direct(llama, tokenizer)
    evaluator.forward = Served(Stock(llama, tokenizer), engine)
    evaluator.score(llama)
    sheets = evaluator.sheets("search", "t_choice").values()
    assert engine.asked == len({r.instance.args for sheet in sheets for r in sheet})


def test_sampling_is_refused(llama: Any, tokenizer: Any, tasks: Path) -> None:
    evaluator = Evaluator(Harness(["t_sample"], [tasks]))
    evaluator.prepare(llama, tokenizer, {"search": {"t_sample": range(3)}})
    sheets = list(evaluator.sheets("search", "t_sample").values())
    with pytest.raises(ConfigError, match=r"t_sample.*do_sample"):
        Served(Stock(llama, tokenizer), Direct(llama, tokenizer)).check(llama, [sheets])


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_error_names_the_extra(llama: Any, tokenizer: Any, tasks: Path) -> None:
    evaluator = Evaluator(Harness(["t_choice"], [tasks]), backend="vllm")
    with pytest.raises(ConfigError, match=r"pip install 'evomerge\[vllm\]'"):
        evaluator.prepare(llama, tokenizer, {"search": {"t_choice": range(3)}})
