"""More experts of the embedded family: trained otherwise, or from another base.

Those of the package are few, and alike. These differ in what may decide whether a merge works:
learning rate, data, embeddings trained or not, and the random weights that the base began with.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from scripts.zoo.train import COURSES, save, train, untrained

_FULL = {"body_only": False, "noise": 0.0}


@dataclass(frozen=True)
class Expert:
    """A fine-tuned model.

    Attributes:
        skill: a course of `scripts/zoo/train.py`; its task is `zoo_SKILL` (`zoo_l2` of `language`).
        base: `zoo:base`, or `other`, a base that is trained from other random weights.
        changes: how its training differs from the course; empty: the expert of the package.
    """

    skill: str
    base: str = "zoo:base"
    changes: tuple[tuple[str, object], ...] = ()

    @property
    def task(self) -> str:
        """The task that shows the skill."""
        return "zoo_l2" if self.skill == "language" else f"zoo_{self.skill}"


def _changed(skill: str, **changes: object) -> Expert:
    return Expert(skill, changes=tuple(changes.items()))


OTHER_BASE = 2
"""Seed of the random weights of the other base, and of its experts' data."""

EXPERTS = {
    "language": Expert("language"),
    "language-slow": _changed("language", learning_rate=3e-4, draw=11),
    "language-fast": _changed("language", learning_rate=3e-3, draw=21),
    "language-body": _changed("language", body_only=True, draw=31),
    "maths": Expert("maths"),
    "maths-fast": _changed("maths", learning_rate=2e-3, steps=300, draw=22),
    "maths-full": _changed("maths", **_FULL, steps=300, draw=32),
    "facts": Expert("facts"),
    "facts-fast": _changed("facts", learning_rate=3e-3, steps=200, draw=23),
    "facts-full": _changed("facts", **_FULL, steps=200, draw=33),
    "other-language": Expert("language", "other"),
    "other-maths": Expert("maths", "other"),
}


def reference(name: str, folder: Path) -> str:
    """Return how a search file names an expert or a base, which is trained first if it must be."""
    expert = EXPERTS.get(name)
    if name == "zoo:base" or (expert is not None and expert == Expert(expert.skill)):
        return name if expert is None else f"zoo:{name}"
    out = folder / name
    if not (out / "config.json").exists():
        _train(name, out, folder)
    return str(out.resolve())


def _train(name: str, out: Path, folder: Path) -> None:
    """Train a model on one thread, always with the same result."""
    from transformers import AutoModelForCausalLM

    from evomerge import zoo

    torch.set_num_threads(1)
    if name == "other":
        model, course, seed = untrained(OTHER_BASE), COURSES["base"], OTHER_BASE
    else:
        expert = EXPERTS[name]
        course = replace(COURSES[expert.skill], **dict(expert.changes))
        of_package = expert.base == "zoo:base"
        parent = zoo.path("base") if of_package else Path(reference(expert.base, folder))
        model = copy.deepcopy(AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32))
        seed = 1 if of_package else OTHER_BASE
    train(model, course, 10 * seed + course.draw)
    save(model, out)
