"""Every parser of files that strangers write: valid files to change, and how each is read."""

from __future__ import annotations

from attacks.targets.models import MODELS
from attacks.targets.runs import RUNS
from attacks.targets.target import Target
from attacks.targets.texts import TEXTS

TARGETS: dict[str, Target] = {**RUNS, **TEXTS, **MODELS}
"""Name of a kind of file -> what reads it."""
