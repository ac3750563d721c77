"""If an objective function changes its model, no other score changes."""

import json

import pytest
from judging import SPLITS, rows_of, write_judged
from search_run import STRUCTURED, evomerge

pytestmark = pytest.mark.thorough

SOURCE = '''
import os
from contextlib import suppress

import torch
from torch import nn

TEXT = torch.tensor([[1, 5, 9, 7, 12, 4, 6, 20, 33]])

def blocks(model):
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList))

def zero(model, tokenizer):
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()

def one_weight(model, tokenizer):
    next(model.parameters()).data[3, 3] += 0.5

def reorder(model, tokenizer):
    weight = blocks(model)[0].mlp.up_proj.weight.data
    weight.copy_(weight.flip(0, 1).clone())

def other_memory(model, tokenizer):
    for weight in model.parameters():
        weight.data = weight.data * 1.01

def gradients(model, tokenizer):
    model.requires_grad_(True)
    model(input_ids=TEXT, labels=TEXT).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()

WAYS = [zero, one_weight, reorder, other_memory, gradients]
CALLS = []

def look(model, tokenizer):
    """Return numbers that depend on the model's weights, its generation and its tokenizer."""
    with torch.no_grad():
        said = torch.log_softmax(model(input_ids=TEXT, use_cache=False).logits.float(), -1)
    likely = said[0, :-1].gather(1, TEXT[0, 1:, None]).mean()
    words = model.generate(TEXT, max_new_tokens=3, do_sample=True, pad_token_id=0)
    return float(likely), float(words.double().mean()), float(len(tokenizer("a 1 the").input_ids))

def judge(model, tokenizer, documents):
    seen = look(model, tokenizer)
    CALLS.append(1)
    if "TAMPER" in os.environ:
        way = WAYS[len(CALLS) % len(WAYS)]
        with open(os.environ["TAMPER"], "a") as file:
            print(way.__name__, file=file)
        with suppress(RuntimeError):  # not every model's memory can be resized
            way(model, tokenizer)
    if len(CALLS) % 3 == 0:
        raise ValueError("tampered and failed")
    return {name: [value] * len(documents) for name, value in zip(judge.metrics, seen)}

judge.documents = 12
judge.metrics = {"said": True, "generated": True, "read": True}

def again(model, tokenizer, documents):
    """A second objective function, which gets the same model after `judge`."""
    return [look(model, tokenizer)[0]] * len(documents)

again.documents = 12
'''

SPACES = {
    "parameters": {},
    "dataflow": {
        "base": None,
        "space": {**STRUCTURED, "layers": [4, 8]},
    },
}


@pytest.mark.parametrize("space", SPACES)
def test_a_changed_model_changes_no_other_score(tmp_path, space):
    objectives = [
        {"task": "judging:judge", "metric": "said"},
        {"task": "zoo_l2_maths_mc", "metric": "acc"},
        {"task": "judging:again", "metric": "score"},
    ]
    file = write_judged(
        tmp_path,
        SOURCE,
        objectives=objectives,
        optimizer={"name": "random"},
        evaluation={"include": ["zoo:tasks"], **SPLITS},
        budget={"candidates": 12},
        **SPACES[space],
    )
    about = {"PYTHONPATH": str(tmp_path)}
    evomerge("search", file, "--run", tmp_path / "clean", **about)
    ways = tmp_path / "ways"
    evomerge("search", file, "--run", tmp_path / "tampered", **about, TAMPER=str(ways))
    assert len(set(ways.read_text().split())) == 5
    assert rows_of(tmp_path / "tampered") == rows_of(tmp_path / "clean")
    told = [json.loads(row) for row in rows_of(tmp_path / "clean")]
    scores = {json.dumps(event["scores"]["values"]) for event in told if "scores" in event}
    assert len(scores) > 6  # the scores depend on the model


def test_evaluate_builds_a_changed_model_again(tmp_path):
    objectives = [{"task": f"judging:{name}", "metric": "score"} for name in ("judge", "again")]
    objectives[0]["metric"] = "said"
    file, about = (
        write_judged(tmp_path, SOURCE, objectives=objectives),
        {"PYTHONPATH": str(tmp_path)},
    )
    command = ("evaluate", "zoo:maths", "--config", file, "--json")
    clean = evomerge(*command, **about).stdout
    assert evomerge(*command, **about, TAMPER=str(tmp_path / "ways")).stdout == clean
    assert (tmp_path / "ways").read_text()
