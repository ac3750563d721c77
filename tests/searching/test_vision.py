"""A search over two models that see and one that does not: found, resumed, exported, loaded."""

from __future__ import annotations

import json
import signal
import sys

import pytest
import seeing
import torch
import yaml
from huggingface_hub import metadata_load
from judging import write_judged
from search_run import evomerge, evomerge_json, kill_when

from evomerge import validate
from evomerge.run.folder import RunFolder

SOURCE = """
import torch

def look(model, pixels):
    ids = torch.tensor([[1, 47, 47, 47, 47, 5, 9]])
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=pixels).logits[0, -1]

def pictures(documents):
    for number in documents:
        yield torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(number))

def judge(model, tokenizer, documents):
    return [float(look(model, pixels).softmax(-1)[5]) for pixels in pictures(documents)]

judge.documents = 30
"""
"""An objective that shows pictures to the model: the likelihood of word 5."""

SPACE = {
    "kind": "parameters",
    "host": "./a",
    "method": "linear",
    "components": ["vision", "projector"],
    "knobs": {"weight": [0.1, 1.0]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A search file over the models `a` and `b`, which see, and `text`, which does not."""
    folder = tmp_path_factory.mktemp("vision")
    for seed, name in enumerate(("a", "b", "text")):
        seeing.make(folder / name, "llava/text" if name == "text" else "llava", seed)
    for name, size in (("a", 8), ("b", 16)):
        (folder / name / "preprocessor_config.json").write_text(f'{{"size": {size}}}')
        (folder / name / "processor_config.json").write_text('{"patch_size": 4}')
    parents = ["./a", "./b", "./text"]
    write_judged(folder, SOURCE, parents=parents, base=None, dtype="float32", space=SPACE)
    return folder


def run(folder, *arguments):
    """Run a command that imports the objective function."""
    return evomerge(*arguments, PYTHONPATH=str(folder))


def test_a_search_merges_towers_and_its_export_is_the_scored_model(folder):
    file, whole, parts = folder / "search.yaml", folder / "whole", folder / "parts"
    run(folder, "search", file, "--run", whole, "--candidates", 14, "--trust-code")
    begun = ("search", file, "--run", parts, "--candidates", 14, "--trust-code")
    journal = parts / "journal.jsonl"
    assert kill_when(begun, journal, 12, 0.0, PYTHONPATH=str(folder)) == -signal.SIGKILL
    run(folder, "resume", parts, "--trust-code")
    config = RunFolder(whole).search_file()
    assert config.frozen.unlike_merges == [f"{folder}/text"]  # it cannot see
    candidates = evomerge_json("results", whole)["candidates"]
    assert candidates == evomerge_json("results", parts)["candidates"]

    out = folder / "out"
    run(folder, "export", whole, "--out", out, "--candidate", 6)
    assert metadata_load(out / "README.md")["pipeline_tag"] == "image-text-to-text"
    for name in ("preprocessor_config.json", "processor_config.json"):
        assert (out / name).read_text() == (folder / "a" / name).read_text()
    documents = json.loads(evomerge("results", whole, "--documents", "search").stdout)
    names = {}
    exec(SOURCE, names)
    scores = names["judge"](seeing.load(out), None, documents["judging:judge"])
    assert sum(scores) / len(scores) == pytest.approx(candidates[6]["fitness"], rel=1e-5)
    assert not torch.equal(
        *(
            seeing.load(folder / name).get_parameter("model.multi_modal_projector.linear_1.weight")
            for name in ("a", "out")
        )
    )


def test_validate_says_what_parents_have_and_what_becomes_of_it(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "judging")  # the helper of this name

    def told(text="./text", **space):
        data = yaml.safe_load((folder / "search.yaml").read_text())
        parents = ["./a", "./b", text]
        found = validate(data | {"parents": parents, "space": SPACE | space}, trust_code=True)
        return json.loads(json.dumps(found).replace(f"{folder}/", ""))

    merged = told()
    assert merged["modality_tensors"] == dict.fromkeys(("vision", "projector"), "merged from a, b")
    notes = merged["warnings"]
    assert [note.split(" ")[0] for note in notes if "differ" in note] == [
        "preprocessor_config.json"
    ]

    kept = told(components=[])
    assert kept["modality_tensors"]["vision"].endswith("; `components: [vision]` merges it")
    lost = told(components=[], host="./text")
    assert lost["modality_tensors"]["vision"] == "lost, since the host has none"
    (note, _) = [item for item in lost["warnings"] if "are lost" in item]
    assert "set `space.host` to 'a' to keep them" in note
    assert not [note for note in lost["warnings"] if "differs" in note]
