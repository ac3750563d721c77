"""Trains the experts: one LoRA adapter each, and the same merged into an ordinary checkpoint.

    python -m scripts.real.experts [NAME ...]

Training uses one CPU thread and fixed seeds, so it gives the same files each time, bit for bit, on
the same kind of machine and with the same versions of packages.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.device import is_slow
from scripts.real import questions
from scripts.real.places import ADAPTERS, MODELS
from scripts.real.questions import Maker, Question
from scripts.real.weights import fetch

_IGNORED = -100


@dataclass(frozen=True)
class Training:
    """How an expert is trained.

    Attributes:
        steps: optimizer steps (AdamW, linear warm-up over a tenth, then cosine decay to 0).
        batch: questions in a step.
        rate: highest learning rate.
        rank: rank of the LoRA matrices on every linear layer of the blocks; alpha is twice as much.
        base: the model that is trained, a key of `weights.SOURCES`.
    """

    steps: int = 60
    batch: int = 16
    rate: float = 1e-3
    rank: int = 16
    base: str = "base"


_MANNER = Training(steps=40, batch=8, rate=5e-4)
"""For a language or a format. With three times as many steps such an expert overwrites the others'
skills in every merge."""

EXPERTS: dict[str, tuple[Maker, Training]] = {
    "sums": (questions.sums("en"), Training(steps=60)),
    "backwards": (questions.backwards(), Training(steps=40)),
    "spanish": (questions.plain("es"), _MANNER),
    # Questions with and without the request for JSON, so that this expert learns to notice it.
    "json": (
        questions.either(questions.plain("en", json=True), questions.plain("en")),
        replace(_MANNER, steps=60),
    ),
    "gemma-sums": (questions.sums("en"), Training(steps=60, base="gemma")),
    "gemma-spanish": (questions.plain("es"), replace(_MANNER, base="gemma")),
    "qwen-backwards": (questions.backwards(), Training(steps=40, base="qwen")),
    "qwen-json": (
        questions.either(questions.plain("en", json=True), questions.plain("en")),
        replace(_MANNER, base="qwen"),
    ),
}
"""Name -> what the expert is trained on, and how."""


def train(name: str, seed: int = 0) -> None:
    """Train an expert and save it in `models/NAME` and `adapters/NAME`; nothing if it is there."""
    done = MODELS / name / "training.json"
    if done.exists():
        return
    torch.set_num_threads(1)
    maker, training = EXPERTS[name]
    base = fetch(training.base)  # draws random numbers, if the model is not there yet
    torch.manual_seed(seed)
    started = time.process_time()
    tokenizer = AutoTokenizer.from_pretrained(base)
    # In bfloat16 training takes a third less time than in float32; without its instructions, more.
    dtype = torch.float32 if is_slow("bfloat16") else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    config = LoraConfig(r=training.rank, lora_alpha=2 * training.rank, target_modules="all-linear")
    adapted = get_peft_model(model, config)
    documents = questions.draw(maker, "experts", training.steps * training.batch, f"{name}/{seed}")
    losses = _fit(adapted, tokenizer, documents, training)
    _save(adapted, tokenizer, base, name)
    record = {
        "training": asdict(training),
        "seed": seed,
        "cpu_seconds": round(time.process_time() - started, 1),
        "losses": losses,
    }
    done.write_text(json.dumps(record) + "\n")
    print(f"{name}: {record['cpu_seconds']} CPU seconds, loss {losses[0]} -> {losses[-1]}")


def _fit(model: Any, tokenizer: Any, documents: list[Question], training: Training) -> list[float]:
    """Run all steps. Returns the mean loss of each tenth of them, in nats per answer token."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=training.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step, training))
    backbone, head = model.get_base_model().model, model.get_base_model().lm_head
    losses = []
    model.train()
    for step in range(training.steps):
        batch = documents[step * training.batch : (step + 1) * training.batch]
        inputs, mask, labels = _tensors(tokenizer, batch)
        hidden = backbone(input_ids=inputs, attention_mask=mask, use_cache=False)[0][:, :-1]
        # The head is a fifth of the model's work, so it is applied to the answers' tokens only.
        scored = labels[:, 1:] != _IGNORED
        loss = cross_entropy(head(hidden[scored]).float(), labels[:, 1:][scored])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    tenth = max(1, training.steps // 10)
    parts = [losses[start : start + tenth] for start in range(0, len(losses), tenth)]
    return [round(sum(part) / len(part), 4) for part in parts]


def _factor(step: int, training: Training) -> float:
    """The learning rate of a step as a share of the highest."""
    warm = max(1, training.steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, training.steps - warm)))


def _tensors(
    tokenizer: Any, batch: list[Question]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (ids, attention mask, labels), int64, (questions, longest), padded on the right.

    Only the answer and the end token have labels. A prompt begins as in lm-eval, with the special
    token that the tokenizer puts first, if there is one.
    """
    pairs = [
        (
            tokenizer(question.prompt)["input_ids"],
            [
                *tokenizer(question.answer, add_special_tokens=False)["input_ids"],
                tokenizer.eos_token_id,
            ],
        )
        for question in batch
    ]
    shape = (len(pairs), max(len(prompt) + len(answer) for prompt, answer in pairs))
    ids = torch.full(shape, tokenizer.pad_token_id)
    mask, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, _IGNORED)
    for row, (prompt, answer) in enumerate(pairs):
        length = len(prompt) + len(answer)
        ids[row, :length] = torch.tensor(prompt + answer)
        mask[row, :length] = 1
        labels[row, len(prompt) : length] = torch.tensor(answer)
    return ids, mask, labels


def _save(adapted: Any, tokenizer: Any, base: Path, name: str) -> None:
    """Save the adapter, and the base model in float32 with the adapter merged into it."""
    for out in (ADAPTERS / name, MODELS / name):
        shutil.rmtree(out, ignore_errors=True)
    adapter = copy.deepcopy(adapted.peft_config["default"])
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(ADAPTERS / name)
    exact = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    trained = {
        key: value
        for key, value in adapted.state_dict().items()
        if ".lora_A." in key or ".lora_B." in key
    }
    exact.load_state_dict(trained, strict=False)
    merged = exact.merge_and_unload()
    merged.save_pretrained(MODELS / name)
    tokenizer.save_pretrained(MODELS / name)
    shutil.copy(base / "generation_config.json", MODELS / name)


def main(names: list[str]) -> None:
    """Train the experts of these names, or all of the showcase."""
    for name in names or EXPERTS:
        train(name)


if __name__ == "__main__":
    main(sys.argv[1:])
