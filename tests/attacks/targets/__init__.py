"""Every parser of files that strangers write: valid files to change, and how each is read.

`tests/attacks/test_fuzz.py` reads some changed files with each of them, `benchmarks/soak.py` many.
"""

from __future__ import annotations

from attacks.targets.commands import COMMANDS
from attacks.targets.models import MODELS
from attacks.targets.others import OTHERS
from attacks.targets.recipes import RECIPES
from attacks.targets.runs import RUNS
from attacks.targets.searches import SEARCHES
from attacks.targets.target import Target
from attacks.targets.weights import WEIGHT_FILES

__all__ = ["TARGETS", "Target"]

TARGETS: dict[str, Target] = {
    **RUNS,
    **SEARCHES,
    **RECIPES,
    **MODELS,
    **WEIGHT_FILES,
    **OTHERS,
    **COMMANDS,
}
"""Name of a kind of file -> what reads it."""
