"""Checks that models give the same results on one accelerator and spread over several.

    python scripts/check_devices.py

Builds candidates of the embedded models on the CPU, on one accelerator (with each implementation of
attention), and spread over all accelerators. Then it compares their weights, which must be the same
bit for bit, and their scores, which must be equal on one accelerator and on several, and equal to
the CPU's up to rounding.

Exit codes: 0 if all agree; 1 if not; 3 if all agree but there are fewer than two accelerators, so
that spreading was not checked.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import AutoTokenizer

from evomerge import zoo
from evomerge.errors import ConfigError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.inference.fingerprint import digest_of
from evomerge.evaluation.tasks.harness import Harness
from evomerge.merging.architecture.placement import Placement
from evomerge.merging.resident import Resident
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source
from evomerge.scores import Scores

TASKS = ("zoo_facts", "zoo_l2_maths_mc", "zoo_maths")
DOCUMENTS = 400
PARENTS = ("zoo:base", "zoo:language", "zoo:maths")
WEIGHTS = (0.3, 0.8)
ROUNDING = 0.02  # allowed difference of a metric between devices; rounding can decide near ties


def recipe(checkpoints: dict[str, Checkpoint], weight: float) -> Recipe:
    def layer(index: int | None) -> Layer:
        knobs = {"weight": weight}
        sources = tuple(Source(name, index, knobs) for name in PARENTS[1:])
        return Layer("task_arithmetic", sources, Source(PARENTS[0], index))

    stack = checkpoints[PARENTS[0]].decoder_stack
    blocks = tuple(layer(index) for index in range(len(stack)))
    return Recipe(PARENTS[0], {stack.prefix: blocks}, layer(None), layer(None), dtype="float32")


def run(checkpoints: dict[str, Checkpoint], place: Placement) -> list[tuple[str, Scores, Any]]:
    """Return the digest of the weights, the scores and the device map of every candidate."""
    resident = Resident(checkpoints, PARENTS[0], "float32", place)
    evaluator = Evaluator(Harness(TASKS, [zoo.tasks_path()]))
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("base"))
    first = resident.apply(recipe(checkpoints, WEIGHTS[0]))
    evaluator.prepare(first, tokenizer, {"search": dict.fromkeys(TASKS, range(DOCUMENTS))})
    found = []
    for weight in WEIGHTS:
        model: Any = resident.apply(recipe(checkpoints, weight))
        where = getattr(model, "hf_device_map", str(model.device))
        found.append((digest_of(dict(model.named_parameters())), evaluator.score(model), where))
    return found


def differences(one: list[Any], other: list[Any]) -> tuple[bool, float]:
    """Return whether all weights are equal, and the largest difference of a metric."""
    digests = all(a[0] == b[0] for a, b in zip(one, other, strict=True))
    worst = max(
        abs(a[1].aggregates[key] - b[1].aggregates[key])
        for a, b in zip(one, other, strict=True)
        for key in a[1].aggregates
    )
    return digests, worst


def main() -> int:
    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    count = torch.accelerator.device_count() if accelerator else 0
    checkpoints = {name: Checkpoint.open(zoo.path(name[4:]), name) for name in PARENTS}
    size = 4 * checkpoints[PARENTS[0]].parameters
    faults = []

    def check(label: str, one: list[Any], other: list[Any], tolerance: float) -> None:
        equal, worst = differences(one, other)
        print(f"{label:50}weights {'equal' if equal else 'DIFFER'}, scores differ by {worst:.5f}")
        if not equal or worst > tolerance:
            faults.append(label)

    host = run(checkpoints, Placement())
    for attention in ("eager", "sdpa", "flash_attention_2"):
        place = Placement(str(accelerator or "cpu"), attention=attention)
        try:
            check(f"{place.device}, {attention}", host, run(checkpoints, place), ROUNDING)
        except ConfigError as error:
            print(f"{place.device}, {attention}: {error}")
    if count >= 2:
        single = run(checkpoints, Placement(f"{accelerator}:0"))
        for spread in ("auto", "balanced", "sequential"):
            memory = {i: int(1.5 * size / count) for i in range(count)}
            spread_out = run(checkpoints, Placement(spread=spread, memory=memory))
            print(f"{spread}: {spread_out[0][2]}")
            check(f"{count} devices, {spread}", single, spread_out, 0.0)
    else:
        print(f"{count} accelerators: models spread over several were not checked")
    print("differs: " + ", ".join(faults) if faults else "agrees")
    return 1 if faults else 0 if count >= 2 else 3


if __name__ == "__main__":
    sys.exit(main())
