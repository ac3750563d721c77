"""Calls of lm-eval: silent, from its own seeds, with the Jinja templates of tasks in a sandbox."""

import io
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from jinja2 import Environment

from evomerge.compat import need, quiet
from evomerge.errors import ConfigError, one_line
from evomerge.parsing.values import shown
from evomerge.trust.templates import LimitedEnvironment

SEED = 1234
"""The seed of numpy, of torch and of few-shot examples in lm-eval's `simple_evaluate`."""


@contextmanager
def calling(seed: int | None = None) -> Iterator[None]:
    """Within, lm-eval logs errors only, and keeps and renders templates in a sandbox.

    With a seed, that of torch, it also starts from the seeds of `simple_evaluate`, and what is
    written to stderr is discarded: its progress bars.
    """
    from lm_eval import utils

    with ExitStack() as stack:
        stack.enter_context(quiet("lm_eval"))
        if seed is not None:
            stack.enter_context(redirect_stderr(io.StringIO()))
            stack.enter_context(seeded(seed))
        env = getattr(utils, "env", None)
        sandbox = env if isinstance(env, TaskTemplates) else _sandbox(env)
        stack.callback(setattr, utils, "env", env)
        utils.env = sandbox
        yield


@contextmanager
def seeded(seed: int = SEED) -> Iterator[None]:
    """Within, the global random generators have the seeds of `simple_evaluate`, torch this one.

    Their states before are restored.
    """
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(SEED)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class TaskTemplates(LimitedEnvironment):
    """Renders as another environment does, in the sandbox, and keeps compiled templates.

    lm-eval compiles a template at each use.
    """

    def __init__(self, plain: Environment) -> None:
        super().__init__(
            loader=plain.loader,
            undefined=plain.undefined,
            keep_trailing_newline=plain.keep_trailing_newline,
        )
        self.filters.update(plain.filters)
        self.limit()
        self._compiled = lru_cache(maxsize=1000)(super().from_string)

    def from_string(self, source: Any, *_: Any, **__: Any) -> Any:
        """Return what renders a text as a template; ConfigError: it is none, or fails."""

        def render(*values: Any, **named: Any) -> str:
            try:
                return str(self._compiled(source).render(*values, **named))
            except Exception as error:  # it may call anything of a document, or divide by zero
                reason = f"{type(error).__name__}: {one_line(error)}".rstrip(".")
                raise ConfigError(
                    f"The template {shown(str(source))} of a task cannot be used ({reason}); "
                    "correct its YAML."
                ) from error

        return SimpleNamespace(render=render)


@lru_cache(maxsize=1)
def _sandbox(plain: Environment) -> TaskTemplates:
    from lm_eval import utils

    need("lm_eval", utils, "env")
    return TaskTemplates(plain)
