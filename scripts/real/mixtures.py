"""Makes mixtures of experts of the experts in Spanish and in sums, for a search over them.

    python -m scripts.real.mixtures

In each mixture both experts are one model, whose attention it has too, and the routers are made
from the same prompts. So a search that merges these mixtures decides how much of which model the
first expert is, and the second one, in each group of layers.
"""

from __future__ import annotations

import warnings

import yaml

import evomerge
from scripts.real.places import MODELS

PROMPTS = (
    ("¿Qué día viene después del lunes?\n", "¿Cuál es la capital de Francia?\n"),
    ("What is 25 + 31?\n", "How much is 14 plus 52?\n"),
)
"""For each of the two experts, what tokens shall go to it."""


def make(name: str) -> None:
    """Write `models/mixture-NAME`, both of whose experts are `models/NAME`, if it is not there."""
    out, file = MODELS / f"mixture-{name}", MODELS / f"mixture-{name}.yaml"
    if out.exists():
        return
    model = str((MODELS / name).resolve())
    experts = [{"source_model": model, "positive_prompts": [*prompts]} for prompts in PROMPTS]
    file.write_text(yaml.safe_dump({"base_model": model, "experts": experts}), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All experts are the same model")
        evomerge.moe(file, out)


def main() -> None:
    """Make all mixtures."""
    for name in ("base", "spanish", "sums"):
        make(name)


if __name__ == "__main__":
    main()
