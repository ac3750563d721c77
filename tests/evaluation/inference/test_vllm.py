"""The vLLM backend without vLLM: a substitute takes the same calls and gives such results."""

import copy
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import tiny
import torch
from lm_tasks import asking, requests_of, runner_of
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, LlamaForCausalLM

from evomerge.compat.transformers import checkpoint_weights
from evomerge.errors import CandidateError, ConfigError, DeviceError
from evomerge.evaluation.inference import generation
from evomerge.evaluation.inference.generation import Prompt, Sampling
from evomerge.evaluation.inference.vllm import EngineForward, VllmEngine
from evomerge.evaluation.inference.vllm import with_identity_layers as completed
from evomerge.evaluation.inference.vllm_kind import VLLM
from evomerge.evaluation.lm_eval.tasks import Harness

pytestmark = pytest.mark.thorough

NAMES = ("t_choice", "t_letter", "t_rolling", "t_generate", "t_sample")
PROMPT = Prompt((1, *range(5, 40, 3)), (), 20)


@pytest.fixture
def engine(monkeypatch, llama, tokenizer):
    """A `VllmEngine` on a substitute for vLLM that takes the same calls and gives such results."""

    class LLM:
        def __init__(self, model, **options):
            assert options["load_format"] == "dummy" and options["dtype"] == "float32"
            self.config = AutoConfig.from_pretrained(model)
            assert AutoTokenizer.from_pretrained(model).eos_token_id == 2
            assert GenerationConfig.from_pretrained(model).eos_token_id == 2
            self.model, self.calls = None, []

        def collective_rpc(self, method, kwargs):
            self.calls.append(method)
            own = {"config": self.config, "state_dict": dict(kwargs["weights_iterator"])}
            self.model = LlamaForCausalLM.from_pretrained(None, **own)

        def reset_prefix_cache(self):
            self.calls.append("reset_prefix_cache")
            return True

        def generate(self, prompts, options, use_tqdm):
            asked = zip(prompts, options, strict=True)
            return [self._one(prompt["prompt_token_ids"], own) for prompt, own in asked]

        def _one(self, tokens, options):
            limit = options.max_tokens
            assert len(tokens) + limit <= self.config.max_position_embeddings
            assert options.skip_special_tokens is False and options.stop_token_ids == [2]
            sampling, seed = None, 0
            if options.temperature > 0:
                assert options.top_k == 50
                sampling = Sampling(options.temperature, options.top_k, options.top_p)
                seed = options.seed
            prompt = Prompt(tuple(tokens), tuple(options.stop), limit, sampling, seed=seed)
            stops = generation.stop_detector(tokenizer, prompt.stops)
            (said,) = generation.continue_prompts(self.model, [prompt], stops, 0)
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(said))])

    library = SimpleNamespace(LLM=LLM, SamplingParams=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "vllm", library)
    monkeypatch.setattr("evomerge.evaluation.inference.vllm_kind.version", lambda name: "0.33.0")
    return VllmEngine(llama, tokenizer)


def prepared(model, tokenizer, tasks, names, **options):
    """Return an evaluator of the hf backend, and the documents of each task."""
    evaluator = asking(Harness(names, [tasks], **options), referenced={"t_choice"})
    evaluator.prepare(model, tokenizer, {"search": dict.fromkeys(names, range(12))})
    return evaluator, [list(requests_of(evaluator, name).values()) for name in names]


@pytest.mark.parametrize("names", [NAMES, NAMES[:3]], ids=["texts too", "likelihoods only"])
def test_the_calls_to_vllm_give_the_scores_of_the_hf_backend(
    engine, make_model, tokenizer, tasks, names
):
    candidate = make_model("llama", seed=4)
    evaluator, documents = prepared(candidate, tokenizer, tasks, names)
    expected, scorer = evaluator.score(candidate), runner_of(evaluator).forward
    runner_of(evaluator).forward = EngineForward(scorer, engine)
    runner_of(evaluator).forward.check(candidate, documents)
    evaluator.halve_batches(1)
    assert evaluator.oom_backoffs == scorer.oom_backoffs == 1
    assert evaluator.score(candidate).values == expected.values
    loads = 2 if "t_generate" in names else 0
    assert engine._llm.calls == ["reload_weights", "reset_prefix_cache"] * loads


def test_what_the_engine_cannot_do_is_refused(engine, make_model, tokenizer, tasks):
    def refused(sentence, name="t_generate", **options):
        evaluator, documents = prepared(model, tokenizer, tasks, [name], **options)
        with pytest.raises(ConfigError, match=sentence):
            EngineForward(runner_of(evaluator).forward, engine).check(model, documents)

    model = make_model("llama", seed=4)
    refused(r"greedily or samples.*'t_generate'.*ask for more", generation={"num_beams": 2})
    model.generation_config.repetition_penalty = 1.1
    refused("ask for more")
    evaluator, documents = prepared(model, tokenizer, tasks, ["t_choice"])
    forward = EngineForward(runner_of(evaluator).forward, engine)
    forward.check(model, documents)  # which generates nothing
    model.generation_config.repetition_penalty = None
    engine.load = lambda weights: None  # it keeps other weights
    other = checkpoint_weights(make_model("llama", seed=5))
    engine._llm.collective_rpc("", {"weights_iterator": other.items()})
    refused(r"in a different way.*use the backend 'hf'")

    def fail(prompts):
        raise DeviceError("It failed.") from ValueError("head size 24 is not supported")

    engine.generate = fail
    refused(r"cannot run this model \(head size 24.*'hf'")


def test_weights_of_other_shapes_are_refused_and_the_engine_goes_on(engine, make_model, llama):
    engine.load(checkpoint_weights(make_model("llama", seed=4)))
    name = "model.norm.weight"
    for change, words in (
        ({name: None}, r"'model.norm.weight' has the shape None instead of \(32,\)"),
        ({name: torch.zeros(3)}, r"'model.norm.weight' has the shape \(3,\) instead of \(32,\)"),
        ({"extra": torch.zeros(3)}, r"'extra' has the shape \(3,\) instead of None"),
    ):
        state = {**checkpoint_weights(llama), **change}
        with pytest.raises(CandidateError, match=words):
            engine.load({n: t for n, t in state.items() if t is not None})
    engine.load(checkpoint_weights(llama))
    assert engine._llm.calls == ["reload_weights", "reset_prefix_cache"] * 2
    assert len(engine.generate([PROMPT])[0]) > 0


def test_a_path_on_a_deeper_engine_answers_with_its_own_weights(engine, make_model, tokenizer):
    """The fixture `engine` is what makes the substitute for vLLM."""
    model, deep = (make_model("llama", seed=seed) for seed in (4, 5))
    deep.model.layers.extend(make_model("llama", seed=6).model.layers)
    deep.config.num_hidden_layers = 6
    deeper = VllmEngine(deep, tokenizer)
    for served in (engine, deeper):
        served.load(checkpoint_weights(model))
    assert deeper._llm.config.num_hidden_layers == 6
    assert deeper.generate([PROMPT]) == engine.generate([PROMPT])
    with pytest.raises(CandidateError, match=r"layers\.3\..* instead of None"):
        engine.load(checkpoint_weights(deep))


def fail(*arguments, **options):
    raise ValueError("no such tensor\nand more lines")


FAILURES = [
    ("collective_rpc", fail, r"load weights \(no such tensor\).*resume"),
    ("reset_prefix_cache", lambda: False, "prefix cache"),
]


@pytest.mark.parametrize(("name", "broken", "words"), FAILURES)
def test_an_engine_that_fails_is_one_sentence(engine, llama, monkeypatch, name, broken, words):
    monkeypatch.setattr(engine._llm, name, broken)
    with pytest.raises(DeviceError, match=words):
        engine.load(checkpoint_weights(llama))


def test_an_engine_that_does_not_start_is_one_sentence_and_breaks_nothing(
    engine, llama, tokenizer, monkeypatch
):
    def start(**options):
        torch.set_num_threads = lambda count: None
        assert "llvmlite.binding.ffi" not in sys.modules
        fail()

    before = torch.set_num_threads
    monkeypatch.setitem(sys.modules, "llvmlite.binding.ffi", sys)
    monkeypatch.setattr(sys.modules["vllm"], "LLM", start)
    with pytest.raises(ConfigError, match=r"cannot start .*\(no such tensor.*\); "):
        VllmEngine(llama, tokenizer)
    assert torch.set_num_threads is before and sys.modules["llvmlite.binding.ffi"] is sys


@pytest.mark.parametrize("found", ["0.15.1", None])
def test_a_vllm_that_cannot_serve_is_refused(monkeypatch, found):
    def version(package):
        if found is None:
            raise PackageNotFoundError(package)
        return found

    monkeypatch.setattr("evomerge.evaluation.inference.vllm_kind.version", version)
    with pytest.raises(ConfigError, match=r"0.16 or newer.*pip install 'evomerge\[vllm\]'"):
        VLLM.check()


TEXT = torch.tensor([[1, *range(5, 60, 3)]])


def deeper(model, layers):
    """Return a random model of the same architecture with another number of layers."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    config.layer_types = ["full_attention"] * layers
    return type(model)(config).to(model.dtype).eval()


def shapes_of(model):
    return {name: tuple(tensor.shape) for name, tensor in checkpoint_weights(model).items()}


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_those_of_the_model_alone(make_model, architecture, dtype):
    model = make_model(architecture, seed=2)
    deep = deeper(model, 5)
    own = {name: tensor.to(dtype) for name, tensor in checkpoint_weights(model).items()}
    state = completed(own, shapes_of(deep))
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes_of(deep)
    one, other = (
        type(model).from_pretrained(None, config=item.config, state_dict=weights, dtype=dtype)
        for item, weights in ((model, own), (deep, state))
    )
    with torch.inference_mode():
        assert torch.equal(other.eval()(TEXT).logits, one.eval()(TEXT).logits)


def test_zeros_take_no_memory_and_a_model_that_is_as_deep_is_left_as_it_is(llama):
    own = dict(checkpoint_weights(llama))
    state = completed(own, shapes_of(deeper(llama, 4)))
    name = "model.layers.{}.mlp.down_proj.weight"
    assert state[name.format(1)] is own[name.format(0)]
    assert state[name.format(0)].untyped_storage().nbytes() == 4
    for layers in (3, 2):
        assert completed(own, shapes_of(deeper(llama, layers))) == own


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "gpt_neox"])
def test_weights_have_the_names_and_shapes_of_a_checkpoint(tmp_path, kind):
    folder = tiny.make(tmp_path / kind, kind)
    stored = load_file(folder / "model.safetensors")
    given = dict(checkpoint_weights(tiny.load(folder)))
    assert given.keys() == stored.keys()
    assert all(torch.equal(given[name], stored[name]) for name in stored)
