"""Contexts to call lm-eval in: without its output, and with the seeds of `simple_evaluate`."""

from __future__ import annotations

import contextlib
import io
import logging
import random
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """Suppress lm-eval's log messages below the level of errors.

    Args:
        bars: suppress its progress bars too, by discarding everything written to stderr.
    """
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()) if bars else contextlib.nullcontext():
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def seeded(torch_seed: int = 1234) -> Iterator[None]:
    """Seed the global random generators as `simple_evaluate` does; restore their states after.

    Args:
        torch_seed: the seed of torch.
    """
    import numpy as np
    import torch

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(1234)
    torch.manual_seed(torch_seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
