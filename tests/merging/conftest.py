"""Two models of any architecture for the tests of merges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny

from evomerge.models.checkpoint import Checkpoint

Pair = Callable[..., dict[str, Checkpoint]]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Return a function that makes the models "a" and "b" of an architecture, once.

    The second one has several files.
    """
    made: dict[str, dict[str, Checkpoint]] = {}

    def get(architecture: str = "llama", **changes: Any) -> dict[str, Checkpoint]:
        key = f"{architecture} {changes}"
        if key not in made:
            folder = tmp_path_factory.mktemp("pair")
            made[key] = {
                name: Checkpoint.open(
                    tiny.make(
                        folder / name, architecture, seed=seed, shards=name == "b", **changes
                    ),
                    name,
                )
                for seed, name in enumerate("ab")
            }
        return made[key]

    return get
