"""Models that see: what `validate` says of their towers and files."""

import json
from typing import Any

import seeing
from search_run import SMALL

from evomerge import validate

SPACE = {
    "kind": "parameters",
    "host": "./a",
    "method": "linear",
    "components": ["vision", "projector"],
    "knobs": {"weight": [0.1, 1.0]},
}


def test_validate_says_what_parents_have_and_what_becomes_of_it(tmp_path, monkeypatch):
    """Of `a` and `b`, which see, and `text`, which does not."""
    for seed, name in enumerate(("a", "b", "text")):
        seeing.make(tmp_path / name, "llava/text" if name == "text" else "llava", seed)
    monkeypatch.chdir(tmp_path)

    def told(**space: Any) -> dict[str, Any]:
        objectives = [{"task": "zoo_l2_maths_mc", "metric": "acc"}]
        data = SMALL | {"parents": ["./a", "./b", "./text"], "base": None, "objectives": objectives}
        found = validate(data | {"space": SPACE | space})
        return json.loads(json.dumps(found).replace(f"{tmp_path}/", ""))

    merged = told()
    assert merged["modality_tensors"] == dict.fromkeys(("vision", "projector"), "merged from a, b")
    kept = told(components=[])
    assert kept["modality_tensors"]["vision"].endswith("; `components: [vision]` merges it")
    lost = told(components=[], host="./text")
    assert lost["modality_tensors"]["vision"] == "lost, since the host has none"
    (note, _) = [item for item in lost["warnings"] if "are lost" in item]
    assert "set `space.host` to 'a' to keep them" in note
