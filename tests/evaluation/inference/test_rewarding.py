"""A reward model gives what transformers gives, and the same bits whatever it has scored before."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from rounding import NATS

from evomerge.evaluation.inference.rewarding import RewardModel
from evomerge.models.checkpoint import Checkpoint

TEMPLATE = "{% for m in messages %}{{ m.role[0] }} {{ m.content }} {% endfor %}"


def words(count: int, seed: int) -> str:
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(44)}" for _ in range(count))


ANSWERS = [(words(1 + i % 9, i), words(i % 5, i + 99)) for i in range(60)]


def reward_model(folder: Path) -> tuple[RewardModel, list[int]]:
    """Return the reward model in a folder, and the rows of each batch that runs through it."""
    load: Any = transformers.AutoModelForSequenceClassification.from_pretrained
    model, rows = load(folder).eval(), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    opened = Checkpoint.open(folder, "judge")
    return RewardModel(opened, lambda: model, lambda: tokenizer), rows


@torch.no_grad()
def one_by_one(rewards: RewardModel, texts: list[Any]) -> list[float]:
    return [
        float(rewards.model(**rewards.tokenizer(*text, return_tensors="pt")).logits[0, 0])
        for text in texts
    ]


def test_answers_are_scored_in_batches_and_as_one_by_one(tmp_path: Path) -> None:
    rewards, rows = reward_model(tiny.make_classifier(tmp_path / "judge", "llama", ["score"]))
    found = rewards.rewards(ANSWERS)
    assert max(rows) > 10 and sum(rows) == len(set(ANSWERS))
    # Without a template and a separator, there is a blank between prompt and answer.
    texts = [(f"{prompt} {answer}",) for prompt, answer in ANSWERS]
    assert found == pytest.approx(one_by_one(rewards, texts), abs=NATS)
    assert rewards.input("w1 ", "w2").texts == ("w1 w2",) == rewards.input("w1", " w2").texts


def test_what_was_scored_before_changes_no_bit_and_does_not_run_again(tmp_path: Path) -> None:
    folder = tiny.make_classifier(tmp_path / "judge", "llama", ["score"])
    fresh, _ = reward_model(folder)
    used, rows = reward_model(folder)
    some = [*ANSWERS[:7], (words(3, 1), "w9"), *ANSWERS[20:31]]
    used.rewards(some)
    found, count = used.rewards(ANSWERS), len(rows)
    assert found == fresh.rewards(ANSWERS)
    assert used.rewards(ANSWERS) == found and len(rows) == count


def test_a_template_or_a_separator_says_what_the_model_reads(tmp_path: Path) -> None:
    chat = tiny.make_classifier(tmp_path / "chat", "llama", ["score"], template=TEMPLATE)
    rewards, _ = reward_model(chat)
    text, messages = rewards.input("w1", "w2"), [{"role": "user", "content": "w1"}]
    assert text == rewards.input(messages, "w2")
    assert (
        rewards.tokenizer.apply_chat_template(
            [*messages, {"role": "assistant", "content": "w2"}], tokenize=False
        )
        == "u w1 a w2 "
    )
    pairs, _ = reward_model(tiny.make_classifier(tmp_path / "pairs", "bert", ["score"]))
    pairs.tokenizer.sep_token = "<eos>"
    assert pairs.input("w1", "w2").texts == ("w1", "w2")
    theirs = one_by_one(pairs, [("w1 w5", "w2"), ("w3", "w4")])
    assert pairs.rewards([("w1 w5", "w2"), ("w3", "w4")]) == pytest.approx(theirs, abs=NATS)
