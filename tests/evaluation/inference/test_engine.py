"""Scoring through an engine; the engine of these tests runs a transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import load, make

from evomerge.compat.transformers import checkpoint_weights
from evomerge.errors import ConfigError, DeviceError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.inference.generation import Prompt, Stops, continue_prompts
from evomerge.evaluation.inference.vllm import EngineForward
from evomerge.evaluation.tasks.harness import Harness


class Direct:
    """An engine of another model instance, which must be given the weights."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    def load(self, weights: dict[str, Any]) -> None:
        self.model.load_state_dict(dict(weights))

    def generate(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        generated = []
        for prompt in prompts:
            stops = Stops(self.tokenizer, prompt.stops)
            generated += continue_prompts(self.model, [prompt], stops, 0)
        return generated


NAMES = ("t_choice", "t_letter", "t_rolling", "t_generate")


def test_transformers_scores_continuations_and_the_engine_only_generates(
    make_model: Any, tokenizer: Any, tasks: Path
) -> None:
    candidate = make_model("llama", seed=4)

    class Writer(Direct):
        loaded = 0

        def load(self, weights: dict[str, Any]) -> None:
            self.loaded += 1
            super().load(weights)

    engine = Writer(make_model("llama", seed=5), tokenizer)
    for names, loads in ((NAMES, 1), (NAMES[:3], 0)):
        splits = {"search": dict.fromkeys(names, range(12))}
        scores = []
        for served in (False, True):
            evaluator = Evaluator(Harness(names, [tasks]), referenced=names)
            evaluator.prepare(candidate, tokenizer, splits)
            if served:
                scorer = evaluator.forward
                evaluator.forward = EngineForward(scorer, engine)
                documents = [list(evaluator.requests("search", n).values()) for n in names]
                evaluator.forward.check(candidate, documents)
                engine.loaded = 0
                evaluator.halve_batches(1)
                assert evaluator.oom_backoffs == scorer.oom_backoffs == 1
            scores.append(evaluator.score(candidate))
        assert scores[0].values == scores[1].values
        assert engine.loaded == loads


def test_beams_are_refused(llama: Any, tokenizer: Any, tasks: Path) -> None:
    evaluator = Evaluator(Harness(["t_generate"], [tasks], generation={"num_beams": 2}))
    evaluator.prepare(llama, tokenizer, {"search": {"t_generate": range(3)}})
    documents = list(evaluator.requests("search", "t_generate").values())
    with pytest.raises(ConfigError, match=r"greedily or samples.*'t_generate'.*ask for more"):
        EngineForward(evaluator.forward, Direct(llama, tokenizer)).check(llama, [documents])


def test_a_generation_config_that_changes_greedy_decoding_is_refused(
    make_model: Any, tokenizer: Any, tasks: Path
) -> None:
    model = make_model("llama", seed=4)
    model.generation_config.repetition_penalty = 1.1
    for name, refused in (("t_choice", False), ("t_generate", True)):
        evaluator = Evaluator(Harness([name], [tasks]))
        evaluator.prepare(model, tokenizer, {"search": {name: range(3)}})
        documents = list(evaluator.requests("search", name).values())
        forward = EngineForward(evaluator.forward, Direct(model, tokenizer))
        with pytest.raises(ConfigError, match="repetition_penalty") if refused else nullcontext():
            forward.check(model, [documents])


def test_an_engine_that_runs_the_model_in_another_way_is_refused(
    llama: Any, make_model: Any, tokenizer: Any, tasks: Path
) -> None:
    class Deaf(Direct):
        def load(self, weights: dict[str, Any]) -> None:
            """Keep the weights that it had."""

    evaluator = Evaluator(Harness(["t_generate"], [tasks]))
    evaluator.prepare(llama, tokenizer, {"search": {"t_generate": range(3)}})
    documents = list(evaluator.requests("search", "t_generate").values())
    scorer = evaluator.forward
    other = make_model("llama", seed=5)
    EngineForward(scorer, Direct(other, tokenizer)).check(llama, [documents])
    other = make_model("llama", seed=5)
    with pytest.raises(ConfigError, match=r"in a different way.*use the backend 'hf'"):
        EngineForward(scorer, Deaf(other, tokenizer)).check(llama, [documents])


def test_an_engine_that_cannot_run_the_model_is_refused(
    llama: Any, tokenizer: Any, tasks: Path
) -> None:
    class Broken(Direct):
        def generate(self, prompts: Any) -> Any:
            raise DeviceError("It failed.") from ValueError("head size 24 is not supported")

    evaluator = Evaluator(Harness(["t_generate"], [tasks]))
    evaluator.prepare(llama, tokenizer, {"search": {"t_generate": range(3)}})
    documents = list(evaluator.requests("search", "t_generate").values())
    with pytest.raises(ConfigError, match=r"cannot run this model \(head size 24.*'hf'"):
        EngineForward(evaluator.forward, Broken(llama, tokenizer)).check(llama, [documents])


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "gpt_neox", "llama"])
def test_weights_have_the_names_and_shapes_of_a_checkpoint(tmp_path: Path, kind: str) -> None:
    folder = make(tmp_path / kind, kind)
    stored = load_file(folder / "model.safetensors")
    given = dict(checkpoint_weights(load(folder)))
    assert given.keys() == stored.keys()
    assert all(torch.equal(given[name], stored[name]) for name in stored)
