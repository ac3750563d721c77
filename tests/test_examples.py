"""The objective functions in examples/ score models as their docstrings say."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

EXAMPLES = Path(__file__).parents[1] / "examples"
CHAT = "{% for m in messages %}{{ m.content }} {% endfor %}"


@pytest.mark.parametrize("template", [None, CHAT])
def test_a_reward_model_scores_prompt_and_answer(tmp_path, monkeypatch, template):
    chat = tiny.make(tmp_path / "chat")
    judge = tiny.make_classifier(tmp_path / "judge", "llama", ["score"], template=template)
    prompts = ["w1 w2", "w3"]
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": p}) for p in prompts))
    monkeypatch.setenv("REWARD_MODEL", str(judge))
    monkeypatch.setenv("PROMPTS", str(tmp_path / "prompts.jsonl"))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "reward_model", raising=False)
    model = AutoModelForCausalLM.from_pretrained(chat).eval()
    tokenizer = AutoTokenizer.from_pretrained(chat)
    reward = importlib.import_module("reward_model").reward
    found = reward(model, tokenizer, [1, 0])
    assert reward.documents == 2

    reads = AutoTokenizer.from_pretrained(judge)
    scorer = AutoModelForSequenceClassification.from_pretrained(judge).eval()
    for prompt, score in zip(reversed(prompts), found, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        text = model.generate(ids, max_new_tokens=256, do_sample=False)[0, ids.shape[1] :]
        answer = tokenizer.decode(text, skip_special_tokens=True)
        read = reads(f"{prompt} {answer}" + " " * bool(template), return_tensors="pt")
        with torch.inference_mode():
            assert score == pytest.approx(float(scorer(**read).logits[0, 0]), abs=1e-5)
