"""Models of any architecture for the tests of merges, each made once."""

import pytest
import tiny
import torch

from evomerge.models.checkpoint import Checkpoint


def makes(root, make):
    """Return a function that opens what `make` makes, once for the same arguments."""
    made = {}

    def get(architecture="llama", **changes):
        key = f"{architecture} {changes}"
        if key not in made:
            folders = make(root / str(len(made)), architecture, **changes)
            made[key] = {name: Checkpoint.open(folder, name) for name, folder in folders.items()}
        return made[key]

    return get


@pytest.fixture
def threads():
    """Return a function that sets torch's threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """The models "a" and "b", of which the second one has several files."""

    def make(root, *kind, **changes):
        ways = {"a": {"seed": 0}, "b": {"seed": 1, "shards": True}}
        return {name: tiny.make(root / name, *kind, **ways[name], **changes) for name in ways}

    return makes(tmp_path_factory.mktemp("pair"), make)


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    """The model "base", and "a" and "b" near it."""

    def make(root, *kind, **changes):
        base = tiny.make(root / "base", *kind, **changes)
        one, two = (
            tiny.make(root / name, *kind, seed=seed, near=base, **changes)
            for seed, name in enumerate("ab", 1)
        )
        return {"base": base, "a": one, "b": two}

    return makes(tmp_path_factory.mktemp("family"), make)
