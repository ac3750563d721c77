"""An objective function: the rewards that a reward model gives a merge's answers to prompts.

    REWARD_MODEL=./reward-model PROMPTS=prompts.jsonl PYTHONPATH=examples \\
        evomerge search search.yaml --run runs/reward --trust-code

with `objectives: [{task: "reward_model:reward", metric: score}]` in the search file, and a prompt
in each line of the file: {"prompt": "..."}.
"""

import json
import os
from functools import cache
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

LINES = Path(os.environ["PROMPTS"]).read_text().splitlines()
PROMPTS = [json.loads(line)["prompt"] for line in LINES if line]


@cache
def judge(device):
    """Load the reward model and its tokenizer, once in a process."""
    name = os.environ["REWARD_MODEL"]
    model = AutoModelForSequenceClassification.from_pretrained(name, dtype="auto")
    return model.to(device).eval(), AutoTokenizer.from_pretrained(name)


@torch.inference_mode()
def reward(model, tokenizer, documents):
    """Return the logit of each answer, which is greedy, so that a resume repeats it."""
    scorer, its_tokenizer = judge(str(model.device))
    scores = []
    for prompt in (PROMPTS[number] for number in documents):
        rows = tokenizer(prompt, return_tensors="pt").to(model.device)
        text = model.generate(**rows, max_new_tokens=256, do_sample=False)[0]
        answer = tokenizer.decode(text[rows["input_ids"].shape[1] :], skip_special_tokens=True)
        if its_tokenizer.chat_template is None:
            read = its_tokenizer(f"{prompt} {answer}", return_tensors="pt", truncation=True)
        else:
            chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            read = its_tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
        scores.append(float(scorer(**read.to(model.device)).logits[0, 0]))
    return scores


reward.documents = len(PROMPTS)
