"""Makes an expert that was trained with another vocabulary, and has that of the others again.

    python -m scripts.real.vocabularies

`respelled` is the base with the vocabulary of Qwen2.5-Coder-0.5B. The expert in Spanish is trained
with it, and gets the vocabulary of the base back by `evomerge transplant`: so it can be merged with
the expert in sums, which has never seen another vocabulary.
"""

from __future__ import annotations

import evomerge
from scripts.real.experts import train
from scripts.real.places import MODELS
from scripts.real.weights import fetch


def main() -> None:
    """Train the expert, and write it in `models/spanish-transplanted`; nothing if it is there."""
    out = MODELS / "spanish-transplanted"
    if not out.exists():
        train("respelled-spanish")
        evomerge.transplant(MODELS / "respelled-spanish", fetch("base"), out)


if __name__ == "__main__":
    main()
