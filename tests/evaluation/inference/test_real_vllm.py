"""The vLLM backend with vLLM itself (`make test-vllm`); skipped where it is not installed."""

import json
import os
import signal

import psutil
import pytest
import torch
from lm_tasks import asking
from search_run import events_of, evomerge, evomerge_json, kill_when, write_search
from tiny import load
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.compat.transformers import checkpoint_weights
from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluation.inference.generation import Prompt
from evomerge.evaluation.inference.vllm import VllmEngine
from evomerge.evaluation.inference.vllm_kind import VLLM
from evomerge.evaluation.lm_eval.tasks import Harness
from evomerge.merging.resident import Resident
from evomerge.merging.writer import write_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.problem.problem import recipe_of
from evomerge.problem.runs import problem_of
from evomerge.recipe import Layer, Recipe, Source
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.space.paths import Hop, layers_of

pytestmark = pytest.mark.skipif(not VLLM.versions(), reason="vLLM is not installed")

NAMES = ("t_choice", "t_letter", "t_generate", "t_rolling")
TEXT = list(range(3, 60))


def model_of(seed, head=32):
    """Return a random Llama in float32 with 4 heads of the given size."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 4 * head, "intermediate_size": 192, "max_position_embeddings": 160}
    parts = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    tokens = {"vocab_size": 384, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = LlamaConfig(**sizes, **parts, **tokens, initializer_range=0.1)
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def engine(tokenizer):
    return VllmEngine(model_of(0), tokenizer)


def logprobs_by_torch(model, text):
    """Return the log-probabilities of all tokens of a text but the first."""
    with torch.inference_mode():
        scores = model(torch.tensor([text])).logits[0, :-1].log_softmax(-1)
    return scores.gather(-1, torch.tensor(text[1:])[:, None])[:, 0]


def logprobs_by_vllm(engine, text):
    from vllm import SamplingParams

    # vLLM has to generate one token, which is not used.
    options = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False)
    (output,) = engine._llm.generate([{"prompt_token_ids": text}], options, use_tqdm=False)
    known = zip(text[1:], output.prompt_logprobs[1:], strict=True)
    return torch.tensor([float(entries[token].logprob) for token, entries in known])


def test_each_model_answers_with_its_own_weights(engine):
    """The first is loaded again after the second. vLLM would keep the last of a missing tensor."""
    first, second = model_of(3), model_of(4)
    found = []
    for model in (first, second, first):
        engine.load(checkpoint_weights(model))
        found.append(logprobs_by_vllm(engine, TEXT))
        assert torch.allclose(found[-1], logprobs_by_torch(model, TEXT), atol=1e-4)
    assert torch.equal(found[0], found[2])
    assert (found[0] - found[1]).abs().mean() > 0.1
    other = dict(checkpoint_weights(second))
    del other["model.norm.weight"]
    with pytest.raises(CandidateError, match=r"'model\.norm\.weight' has the shape None"):
        engine.load(other)
    engine.load(checkpoint_weights(second))
    assert torch.equal(logprobs_by_vllm(engine, TEXT), found[1])


def test_the_backend_scores_with_transformers_and_generates_with_vllm(tokenizer, tasks):
    candidate = model_of(6)
    splits = {"search": dict.fromkeys(NAMES, range(12))}
    scores = []
    for backend in ("hf", "vllm"):
        evaluator = asking(Harness(NAMES, [tasks]), backend=backend)
        evaluator.prepare(candidate, tokenizer, splits)
        scores.append(evaluator.score(candidate))
    assert scores[0].values == scores[1].values


def test_a_model_that_vllm_cannot_run_is_one_sentence(tokenizer, tasks):
    model = model_of(0, head=24)
    with pytest.raises(ConfigError, match=r"vLLM cannot (run|start with) this model .*'hf'"):
        evaluator = asking(Harness(["t_generate"], [tasks]), backend="vllm")
        evaluator.prepare(model, tokenizer, {"search": {"t_generate": range(3)}})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_paths_of_all_depths_on_one_engine_answer_as_their_exports_on_engines_of_their_own(
    tokenizer, tmp_path, dtype
):
    """Log-probabilities and texts are the same bit for bit; the first path is loaded twice."""
    checkpoints = parents_in(tmp_path, tokenizer, dtype)
    paths = {
        "short": [Hop("a", 0), Hop("b", 2, 0.8)],
        "long": [Hop("a", 0), Hop("b", 0), Hop("b", 1, 1.3), Hop("a", 1), Hop("a", 2)],
        "middle": [Hop("b", 0), Hop("b", 0), Hop("a", 2)],
    }
    whole = Layer("passthrough", (Source("a"),))
    recipes = {
        name: Recipe("a", {"model.layers": layers_of(path)}, whole, whole, dtype=dtype)
        for name, path in paths.items()
    }
    resident = Resident(checkpoints, "a", dtype)
    deep = VllmEngine(resident.apply(recipes["long"]), tokenizer)
    found = {}
    for name in ("short", "long", "middle", "short"):
        deep.load(checkpoint_weights(resident.apply(recipes[name])))
        answers = logprobs_by_vllm(deep, TEXT), deep.generate([Prompt(tuple(TEXT[:9]), (), 30)])
        assert torch.equal(found.setdefault(name, answers)[0], answers[0])
        assert found[name][1] == answers[1]
    engines = [deep]  # vLLM ends the process group of all of them when one is collected
    for name, recipe in recipes.items():
        write_model(recipe, checkpoints, tmp_path / name)
        exported = load(tmp_path / name)
        engines.append(own := VllmEngine(exported, tokenizer))
        own.load(checkpoint_weights(exported))
        assert torch.equal(logprobs_by_vllm(own, TEXT), found[name][0])
        assert own.generate([Prompt(tuple(TEXT[:9]), (), 30)]) == found[name][1]
        near = 1e-4 if dtype == "float32" else 0.1
        # In float32, since torch's own scores in bfloat16 differ from run to run by as much.
        assert torch.allclose(found[name][0], logprobs_by_torch(exported.float(), TEXT), atol=near)


def test_a_killed_search_over_paths_goes_on_and_a_path_scores_the_same_alone(
    tokenizer, tasks, tmp_path
):
    """A path that is not as deep as a parent is evaluated on an engine of its own depth."""
    parents_in(tmp_path, tokenizer, "float32")
    body = json.loads((tasks / "t_generate.yaml").read_text())
    metric = {"metric": "chrf", "aggregation": "chrf", "higher_is_better": True}
    body |= {"task": "t_texts", "metric_list": [metric]}
    body["generation_kwargs"] = {"until": ["@@"], "max_gen_toks": 24}
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "t_texts.yaml").write_text(json.dumps(body))
    file = write_search(
        tmp_path,
        base=None,
        parents=[str(tmp_path / "a"), str(tmp_path / "b")],
        space={"kind": "dataflow", "variant": "structured", "repeats": 1, "layers": [2, 5],
               "ends": "free", "scales": [0.7, 1.4]},
        optimizer={"name": "cma-margin"},
        **served(tmp_path / "tasks", [{"task": "t_texts", "metric": "chrf"}]),
    )  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    evomerge("search", file, "--run", whole)
    assert kill_and_resume(file, killed) == (whole / "journal.jsonl").read_bytes()
    rows = evomerge_json("results", whole)["candidates"]
    assert len({row["search t_texts/chrf"] for row in rows}) > 2
    number = next(number for number, depth in enumerate(depths_of(whole)) if depth != 3)
    evomerge("export", whole, "--out", tmp_path / "model", "--candidate", number)
    again = evomerge_json("evaluate", tmp_path / "model", "--config", file, "--split", "search")
    assert again["scores"]["t_texts/chrf"]["value"] == rows[number]["search t_texts/chrf"]


def depths_of(run):
    """Return the number of layers of every candidate of a run."""
    folder = RunFolder(run)
    space, candidates = problem_of(folder).space, History(folder.events()).candidates
    return [sum(map(len, recipe_of(space, item).layers.values())) for item in candidates]


@pytest.fixture
def cores(monkeypatch):
    """Give each part of a divided engine a CPU core, where vLLM wants a NUMA node."""
    known = sorted(os.sched_getaffinity(0))
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{known[0]}|{known[-1]}")


@pytest.mark.parametrize("division", [1, 2])
def test_a_killed_search_goes_on_as_if_it_had_not_been_killed(
    tokenizer, tasks, tmp_path, division, cores
):
    file = write_served(tokenizer, tasks, tmp_path, division)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    evomerge("search", file, "--run", whole)
    assert kill_and_resume(file, killed) == (whole / "journal.jsonl").read_bytes()


def test_a_divided_engine_is_a_worker_in_a_process_of_its_own(tokenizer, tasks, tmp_path, cores):
    """Its scores are those of an engine in one piece, and its processes end with the search."""
    evomerge("search", write_served(tokenizer, tasks, tmp_path, 1), "--run", tmp_path / "whole")
    file = write_served(tokenizer, tasks, tmp_path, 2, executor={"kind": "processes", "workers": 1})
    evomerge("search", file, "--run", tmp_path / "divided")
    found = [events_of(tmp_path / name) for name in ("divided", "whole")]
    digests = {events.pop(("search", None, None)) for events in found}
    assert len(digests) == 2 and found[0] == found[1]
    parts = [item for item in psutil.process_iter() if item.name().startswith("VLLM")]
    _, alive = psutil.wait_procs(parts, timeout=300)  # they end when they miss their parent
    assert not alive


def write_served(tokenizer, tasks, folder, division, **more):
    """Write a search whose engine is divided over so many processes."""
    parents_in(folder, tokenizer, "float32")
    tasks_and_metrics = (("t_generate", "exact_match"), ("t_choice", "acc"))
    objectives = [{"task": task, "metric": metric} for task, metric in tasks_and_metrics]
    sections = served(tasks, objectives)
    sections["evaluation"]["tensor_parallel"] = division
    parents = [str(folder / "a"), str(folder / "b")]
    return write_search(folder, parents=parents, base=parents[0], **sections, **more)


def parents_in(folder, tokenizer, dtype):
    """Save two parents with the tokenizer."""
    for seed, name in ((1, "a"), (2, "b")):
        model_of(seed).to(getattr(torch, dtype)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: Checkpoint.open(folder / name, name) for name in "ab"}


def served(tasks, objectives):
    """Return the sections of a small search whose texts vLLM generates."""
    sizes = {"search": {"documents": 20}, "test": {"documents": 10}}
    sizes["validation"] = {"documents": 10, "finalists": 2}
    evaluation = {"backend": "vllm", "include": [str(tasks)], **sizes}
    return {"objectives": objectives, "evaluation": evaluation, "budget": {"candidates": 8}}


def kill_and_resume(file, run):
    """Kill a search in its middle, resume it, and return the journal."""
    journal = run / "journal.jsonl"
    arguments = ("search", file, "--run", run)
    assert kill_when(arguments, journal, 10, 0.0) == -signal.SIGKILL
    before = journal.read_bytes()
    evomerge("resume", run)
    assert len(before) < len(journal.read_bytes())
    return journal.read_bytes()
