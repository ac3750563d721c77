"""Fine-tunes the base on the documents that a descent learns from: the neighbour of a merge.

    python benchmarks/finetune.py [--quick] [--worlds NAME ...] [--seeds N] [--steps N]
                                  [--rates RATE ...] [--start MODEL]

Who has reference answers can also train. Here a LoRA adapter (rank 16, on all linear layers) of the
base, or of another model, is trained by AdamW on the same search documents, with the same loss, the
same form of answers and as many documents a step as `optimizer.name: gradient` takes. A fifth of
the documents is watched, and the best adapter on these counts. With each rate it is trained once,
and the score on validation documents chooses. The worlds are those of `benchmarks/optimizers.py`,
whose row `gradient` is what to compare with.

Printed are the score on test documents of the base before and after, in per cent: the mean of the
objectives, and each objective; and CPU seconds of training with all rates. The last line is one
JSON object: world -> mean of the scores after, as a share.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import time
from functools import partial
from statistics import fmean, stdev
from typing import Any

import torch
from choosing.worlds import HERE, SPACES, World, make_world
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from evomerge import zoo
from evomerge.evaluation.evaluator import Documents
from evomerge.evaluation.loss import AnswerKey, Loss
from evomerge.scores import Split
from evomerge.strategy.gradient.descent import SEGMENT
from evomerge.strategy.gradient.lessons import divided

RANK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, few steps")
    parser.add_argument("--worlds", nargs="+", choices=list(SPACES), default=["weights 8"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16, help="documents of a step")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--start", help="a folder or zoo:NAME; default: the base")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.steps, options.rates = 1, 10, options.rates[:1]
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    figures = {}
    for name in options.worlds:
        found = [_run(name, seed, options) for seed in range(options.seeds)]
        error = f" +- {100 * stdev(found) / math.sqrt(len(found)):.1f}" if len(found) > 1 else ""
        print(f"{name}: {100 * fmean(found):.1f}{error}")
        figures[name] = round(fmean(found), 4)
    print(json.dumps(figures))


def _run(name: str, seed: int, options: argparse.Namespace) -> float:
    """Train with each rate, print a line, and return the test score of the best one."""
    place, dtype = options.start or str(SPACES[name].base), SPACES[name].dtype
    folder = zoo.path(place.removeprefix("zoo:")) if place.startswith("zoo:") else HERE / place

    def load() -> Any:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        return model.eval()

    with make_world(name, seed) as world:
        documents = {task: sorted(ids) for task, ids in world.evaluator.splits["search"].items()}
        loss = Loss(world.evaluator, world.objectives)
        parents = (world.worker.build(recipe) for recipe in world.space.baselines().values())
        some = loss.without_form({task: ids[:16] for task, ids in documents.items()}, {})
        key = AnswerKey(forms=loss.choose_forms(parents, some))
        began, valid, tests = time.process_time(), -1.0, [0.0]
        for rate in options.rates:
            model = _trained(load(), loss, key, documents, rate, seed, options)
            found = fmean(_scores(model, world, "validation"))
            if found > valid:
                valid, chosen, tests = found, rate, _scores(model, world, "test")
        seconds = time.process_time() - began
        before = _scores(load(), world, "test")
    each = ", ".join(f"{100 * a:.1f} -> {100 * b:.1f}" for a, b in zip(before, tests, strict=True))
    print(
        f"{name} seed {seed}: {100 * fmean(before):.1f} -> {100 * fmean(tests):.1f} ({each}); rate "
        f"{chosen:g}; CPU seconds of all rates with scores: {seconds:.0f}",
        flush=True,
    )
    return fmean(tests)


def _trained(
    model: Any,
    loss: Loss,
    key: AnswerKey,
    documents: Documents,
    rate: float,
    seed: int,
    options: argparse.Namespace,
) -> Any:
    """Train an adapter of a model, and return the model with the best one merged into it."""
    torch.manual_seed(seed)
    learned, watched = divided(documents, seed)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    adapted = get_peft_model(model, config)
    weights = [item for item in adapted.parameters() if item.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_factor, steps=options.steps))
    lowest, best = math.inf, [item.detach().clone() for item in weights]
    for step in range(options.steps):
        draws = random.Random(f"{seed} batch {step}")
        share = max(1, options.batch // len(learned))
        batch = {task: draws.sample(ids, min(share, len(ids))) for task, ids in learned.items()}
        loss.backward(adapted, batch, key)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % SEGMENT == 0:
            now = loss(adapted, watched, key) if watched else -step
            if now < lowest:
                lowest, best = now, [item.detach().clone() for item in weights]
    with torch.no_grad():
        for item, value in zip(weights, best, strict=True):
            item.copy_(value)
    return adapted.merge_and_unload().eval()


def _factor(step: int, steps: int) -> float:
    """Return the rate of a step as a share of the highest."""
    return min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _scores(model: Any, world: World, split: Split) -> list[float]:
    scores = world.evaluator.score(model, split)
    return [objective.value(scores) for objective in world.objectives]


if __name__ == "__main__":
    main()
