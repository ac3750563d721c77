"""Three Llamas for every test of mergekit's files."""

from __future__ import annotations

import pytest
import tiny

from evomerge.models.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """Three Llamas of three blocks, called by their folders' names."""
    root = tmp_path_factory.mktemp("llamas")
    return {
        name: Checkpoint.open(tiny.make(root / name, "llama", seed=seed), name)
        for seed, name in enumerate("abc")
    }
