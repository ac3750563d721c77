"""What is private in nevergrad, from version 1.0.8 on."""

from typing import Any

import numpy as np

from evomerge.compat import need


def replace_queue(optimizer: Any, queue: Any) -> None:
    """Let an optimizer with a population keep its members in another queue."""
    need("nevergrad", optimizer, "_uid_queue")
    optimizer._uid_queue = queue


def population_of(optimizer: Any, *, is_evolution_strategy: bool) -> int:
    """Return the number of trials in the first generation; 1 if the algorithm has none."""
    if is_evolution_strategy:
        settings = need("nevergrad", optimizer, "_config")
        return int(settings.offsprings or settings.popsize)
    # The attribute differs between algorithms. Some have an object that adapts the size.
    sizes = [getattr(optimizer, name, None) for name in ("llambda", "popsize", "_popsize")]
    sizes = [getattr(size, "llambda", size) for size in sizes]
    return max(1, int(next((size for size in sizes if isinstance(size, int | np.integer)), 1)))


def mixes_steps(optimizer: Any) -> bool:
    """Return whether it is an EMNA that ends with a ValueError when its population adapts.

    Then it replaces a step for each coordinate by one for all, while points with both are open.
    """
    adapts = getattr(optimizer, "population_size_adaptation", False)
    return bool(adapts) and not getattr(optimizer, "isotropic", True)
