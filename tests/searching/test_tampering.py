"""If an objective function changes its model, no other score changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from judging import SPLITS, rows_of, write_judged
from search_run import STRUCTURED, evomerge

pytestmark = pytest.mark.thorough

SOURCE = '''
import os

import torch
from torch import nn

TEXT = torch.tensor([[1, 5, 9, 7, 12, 4, 6, 20, 33]])

def zero(model):
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()

def one_weight(model):
    next(model.parameters()).data[3, 3] += 0.5

def reorder(model):
    blocks = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    weight = blocks[0].mlp.up_proj.weight.data
    weight.copy_(weight.flip(0, 1).clone())

def other_memory(model):
    for weight in model.parameters():
        weight.data = weight.data * 1.01

def gradients(model):
    model.requires_grad_(True)
    model(input_ids=TEXT, labels=TEXT).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()

WAYS = [zero, one_weight, reorder, other_memory, gradients]
CALLS = []

def again(model, tokenizer, documents):
    """The likelihood of a text; a second function, which gets the same model after `judge`."""
    with torch.no_grad():
        said = torch.log_softmax(model(input_ids=TEXT, use_cache=False).logits.float(), -1)
    return [float(said[0, :-1].gather(1, TEXT[0, 1:, None]).mean())] * len(documents)

def judge(model, tokenizer, documents):
    seen = again(model, tokenizer, documents)
    CALLS.append(1)
    if "TAMPER" in os.environ:
        way = WAYS[len(CALLS) % len(WAYS)]
        with open(os.environ["TAMPER"], "a") as file:
            print(way.__name__, file=file)
        way(model)
    if len(CALLS) % 3 == 0:
        raise ValueError("tampered and failed")
    return seen

judge.documents = again.documents = 12
'''

SPACES = {"parameters": {}, "dataflow": {"base": None, "space": {**STRUCTURED, "layers": [4, 8]}}}
TWICE = [{"task": f"judging:{name}", "metric": "score"} for name in ("judge", "again")]


@pytest.mark.parametrize("space", SPACES)
def test_a_changed_model_changes_no_other_score(tmp_path: Path, space: str) -> None:
    file = write_judged(
        tmp_path,
        SOURCE,
        objectives=[TWICE[0], {"task": "zoo_l2_maths_mc", "metric": "acc"}, TWICE[1]],
        optimizer={"name": "random"},
        evaluation={"include": ["zoo:tasks"], **SPLITS},
        budget={"candidates": 14},
        **SPACES[space],
    )
    about, ways = {"PYTHONPATH": str(tmp_path)}, tmp_path / "ways"
    evomerge("search", file, "--run", tmp_path / "clean", **about)
    evomerge("search", file, "--run", tmp_path / "tampered", **about, TAMPER=str(ways))
    assert len(set(ways.read_text().split())) == 5
    assert rows_of(tmp_path / "tampered") == rows_of(tmp_path / "clean")
    told = [json.loads(row) for row in rows_of(tmp_path / "clean")]
    scores = {json.dumps(event["scores"]["values"]) for event in told if "scores" in event}
    assert len(scores) > 7  # the scores depend on the model


def test_evaluate_builds_a_changed_model_again(tmp_path: Path) -> None:
    file, about = write_judged(tmp_path, SOURCE, objectives=TWICE), {"PYTHONPATH": str(tmp_path)}
    command = ("evaluate", "zoo:maths", "--config", file, "--json")
    clean = evomerge(*command, **about).stdout
    assert evomerge(*command, **about, TAMPER=str(tmp_path / "ways")).stdout == clean
    assert (tmp_path / "ways").read_text()
