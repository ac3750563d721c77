"""Three Llama models for the tests of mergekit files."""

import pytest
import tiny

from evomerge.models.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """Three Llama models of three blocks; their references are the names of their folders."""
    root = tmp_path_factory.mktemp("llamas")
    return {
        name: Checkpoint.open(tiny.make(root / name, "llama", seed=seed), name)
        for seed, name in enumerate("abc")
    }
