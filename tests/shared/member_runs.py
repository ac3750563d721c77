"""For tests of searches that merge earlier merges: a search file, and what holds for their runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search_run import SMALL, kill_when, write_search

import evomerge
from evomerge.run.history import Candidate

THREE_TASKS: dict[str, Any] = {
    "parents": ["zoo:language", "zoo:maths", "zoo:facts"],
    "space": {},
    "dtype": "bfloat16",
    "objectives": [
        {"task": "zoo_l2", "metric": "exact_match"},
        {"task": "zoo_maths", "metric": "exact_match"},
        {"task": "zoo_facts", "metric": "acc"},
    ],
    "evaluation": {
        **SMALL["evaluation"],
        "search": {"documents": 8},
        "validation": {"documents": 8, "finalists": 2},
        "test": {"documents": 8},
    },
}


def killed_and_resumed(folder: Path, changes: dict[str, Any], records: int) -> evomerge.Run:
    """Return a run that was killed once, lost its members, and was resumed.

    Args:
        folder: an empty folder.
        changes: the keys of the search file in which it is not `SMALL`.
        records: number of lines in the journal at which it is killed.
    """
    file = write_search(folder, **changes)
    journal = folder / "run" / "journal.jsonl"
    assert kill_when(["search", file, "--run", folder / "run"], journal, records, 0.0) == -9
    for member in (folder / "run" / "models" / "members").iterdir():
        member.rename(folder / member.name)
    return evomerge.resume(folder / "run")


def deepest(run: evomerge.Run, least: int) -> Candidate:
    """Return the candidate with most generations of ancestors, which must be at least so many."""
    depth = [0] * len(run.history.candidates)
    for item in run.history.candidates:
        depth[item.number] = 1 + max(
            (depth[mate] for mate in item.origin.get("mates", ())), default=0
        )
    assert max(depth) >= least
    return run.history.candidates[depth.index(max(depth))]


def check_export(run: evomerge.Run, candidate: Candidate, folder: Path) -> Path:
    """Check that a candidate is exported as it was scored; return the folder of the model.

    Without the folder of members, from the recipe file alone, the model is the same.
    """
    members = run.folder / "models" / "members"
    model = run.export(folder / "model", candidate.number)
    scores = evomerge.evaluate(model, run.folder / "search.yaml", split="search")
    expected = candidate.scores("search").aggregates
    assert {key: item.value for key, item in scores.items()} == {
        key: expected[key] for key in scores
    }
    assert len(scores) == 3
    members.rename(folder / "away")
    (folder / "alone.yaml").write_bytes((model / "evomerge_recipe.yaml").read_bytes())
    evomerge.merge(folder / "alone.yaml", folder / "again")
    content = [item / "model.safetensors" for item in (model, folder / "again")]
    assert content[0].read_bytes() == content[1].read_bytes()
    assert not members.exists()
    (folder / "away").rename(members)
    return model
