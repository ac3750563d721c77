"""Where the showcase keeps its files. git ignores the whole folder."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("runs/showcase")
"""Everything that the showcase fetches or generates, relative to the root of the repository."""

MODELS = ROOT / "models"
"""One checkpoint for each model: `base` and the experts."""

ADAPTERS = ROOT / "adapters"
"""One LoRA adapter for each expert, in peft's format."""

RUNS = ROOT / "runs"
"""One run folder for each search."""
