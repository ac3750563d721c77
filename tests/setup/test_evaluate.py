"""`evomerge evaluate` gives a model, with or without an adapter, the score of a search's parent."""

import warnings

import peft
import pytest
import torch
from search_run import evomerge, evomerge_json, write_search
from tiny import make, save_tokenizer
from transformers import AutoModelForCausalLM

from evomerge.config.schema import parse
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.setup.freeze import freeze
from evomerge.setup.runs import prepare
from evomerge.setup.search import evaluate, run_search
from evomerge.trust.consent import Permissions

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base, a model near to it, a strong adapter of the base, and PEFT's merge of these two."""
    folder = tmp_path_factory.mktemp("models")
    base = make(folder / "base")
    make(folder / "one", seed=1, near=base)
    torch.manual_seed(3)
    settings = peft.LoraConfig(
        r=4, lora_alpha=64, target_modules=["q_proj", "down_proj"], init_lora_weights=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
        adapted.save_pretrained(folder / "adapter")
        plain = AutoModelForCausalLM.from_pretrained(base)
        merged = peft.PeftModel.from_pretrained(plain, folder / "adapter").merge_and_unload()
    merged.save_pretrained(folder / "merged")
    save_tokenizer(folder / "merged")
    return folder


SOURCE = """
import hashlib
import torch

def probe(model, tokenizer, documents):
    '''Return a hash of the weights, and a number that is close if the weights are close.'''
    total = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        flat = weight.detach().reshape(-1).view(torch.uint8)
        total.update(name.encode() + flat.numpy().tobytes())
    bits = int(total.hexdigest()[:12], 16) / 2**48
    with torch.no_grad():
        logits = [model(torch.tensor([[1, 4 + i, 9, 30]])).logits.float().std() for i in documents]
    return {"bits": [bits] * len(documents), "spread": [float(item) for item in logits]}

probe.documents = 12
probe.metrics = {"bits": True, "spread": True}
"""


def problem_of(folder, space, dtype):
    """A search over a model and a model with an adapter; the scores depend on the weights only."""
    data = {
        "parents": [f"{folder}/one", f"{folder}/base+{folder}/adapter"],
        "base": f"{folder}/base",
        "dtype": dtype,
        "space": space,
        "objectives": [
            {"task": "weight_probe:probe", "metric": metric} for metric in ("bits", "spread")
        ],
        "evaluation": {
            "search": {"documents": 4},
            "validation": {"documents": 4},
            "test": {"documents": 4},
        },
        "budget": {"candidates": 3},
    }
    return prepare(parse(data, "search.yaml"), folder, Permissions(trust_code=True))


@pytest.mark.parametrize(
    ("space", "dtype"),
    [
        ({"kind": "parameters", "method": "task_arithmetic"}, "float32"),
        ({"kind": "dataflow", "variant": "swaps", "scales": 1.0}, "bfloat16"),
    ],
)
def test_an_adapted_model_is_scored_as_a_search_scores_it(
    models, tmp_path, monkeypatch, space, dtype
):
    (tmp_path / "weight_probe.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    problem = problem_of(models, space, dtype)
    run = RunFolder.create(tmp_path / "run", "{}", freeze(problem))
    run_search(problem, run, {})
    adapted = f"{models}/base+{models}/adapter"
    row = next(item for item in History(run.events()).candidates if item.label == adapted)
    scores = evaluate(problem, adapted, "search")
    assert dict(scores.values) == dict(row.outcomes["search"].values)
    if dtype == "float32":
        spread = "weight_probe:probe/spread"
        of = {name: evaluate(problem, f"{models}/{name}", "search") for name in ("base", "merged")}
        assert scores.values[spread] == pytest.approx(of["merged"].values[spread], rel=1e-4)
        assert scores.values[spread] != pytest.approx(of["base"].values[spread], rel=1e-2)


def test_show_prints_documents_with_prompt_answer_and_target(tmp_path):
    file = write_search(tmp_path)
    done = evomerge("evaluate", "zoo:language", "--config", file, "--show", "2")
    said = done.stdout
    assert done.stderr == ""  # no progress bars of transformers
    assert said.count("prompt:") == said.count("answer:") == said.count("target:") == 2
    found = evomerge_json("evaluate", "zoo:language", "--config", file, "--show", "2")["examples"]
    assert len(found) == 2
    assert all(item["prompt"] in said and item["target"] in said for item in found)
    for item in found:
        right = item["answer"].strip() == item["target"].strip()
        assert item["values"]["exact_match"] == float(right)
