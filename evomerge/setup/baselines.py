"""The baselines of a search: how many there are, and whether the greedy soup can be made."""

from __future__ import annotations

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.space.baselines import UNIFORM, averaged
from evomerge.space.protocol import Space

LEAST = 3
"""Smallest number of parents of a greedy soup; of two it is the uniform merge or the better one."""


def check_baselines(config: SearchConfig, space: Space) -> None:
    """Check that the baselines that a search file asks for can be made.

    Raises:
        ConfigError: the greedy soup cannot be made.
    """
    if "greedy_soup" not in config.baselines:
        return
    if config.mode == "pareto":
        raise ConfigError(
            "`baselines` has 'greedy_soup', which adds parents as long as one score does not drop, "
            "but with `mode` 'pareto' there are several scores; remove it."
        )
    uniform = space.baselines().get(UNIFORM)
    if uniform is None:
        raise ConfigError(
            f"`baselines` has 'greedy_soup', which averages parents, but `space.kind` "
            f"{config.space.kind!r} merges no weights; remove it."
        )
    count = len(averaged(uniform))
    if count < LEAST:
        raise ConfigError(
            f"`baselines` has 'greedy_soup', which takes {LEAST} parents or more beside the base, "
            f"but there are {count}; remove it."
        )


def count_baselines(config: SearchConfig, space: Space) -> int:
    """Return how many candidates of a search are baselines, with the steps to the greedy soup."""
    baselines = space.baselines()
    soup = len(averaged(baselines[UNIFORM])) if "greedy_soup" in config.baselines else 0
    return len(baselines) + soup
