"""Imports that docs/how-it-works.md of earlier releases showed."""

import sys
import warnings
from types import SimpleNamespace
from typing import Any

from evomerge.execute.worker import Worker
from evomerge.problem import runs

warnings.warn(
    "evomerge.setup is gone; take `prepare` from evomerge.problem.runs, and "
    "evomerge.execute.worker.Worker for `make_worker`.",
    DeprecationWarning,
    stacklevel=2,
)
_worker: Any = SimpleNamespace(make_worker=Worker)
sys.modules |= {"evomerge.setup.runs": runs, "evomerge.setup.worker": _worker}
