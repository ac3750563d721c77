"""A search over two models that see and one that does not: found, resumed, exported, loaded."""

from __future__ import annotations

import json
import signal

import pytest
import seeing
import torch
from huggingface_hub import metadata_load
from judging import write_judged
from search_run import evomerge, evomerge_json, kill_when

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
    assert sum(scores) / len(scores) == pytest.approx(candidates[6]["fitness"], rel=1e-6)
    assert not torch.equal(
        *(
            seeing.load(folder / name).get_parameter("model.multi_modal_projector.linear_1.weight")
            for name in ("a", "out")
        )
    )


def test_validate_says_what_parents_have_and_what_becomes_of_it(folder):
    def told(**space):
        sets = [f"space.{key}={value}" for key, value in space.items()]
        options = [word for item in sets for word in ("--set", item)]
        found = run(folder, "validate", folder / "search.yaml", "--json", "--trust-code", *options)
        return json.loads(found.stdout)

    def short(text):
        return text.replace(f"{folder}/", "")

    merged = told()
    assert list(map(short, merged["modalities"].values())) == [
        "vision 17.3 kB, projector 2.18 kB; preprocessor_config.json, processor_config.json",
        "vision 17.3 kB, projector 2.18 kB; preprocessor_config.json, processor_config.json",
        "none",
    ]
    assert {name: short(text) for name, text in merged["modality_tensors"].items()} == {
        "vision": "merged from a, b",
        "projector": "merged from a, b",
    }
    (note,) = [item for item in merged["warnings"] if "preprocessor_config.json differs" in item]
    assert "merges have that of the host" in note

    kept = told(components="[]")
    assert kept["modality_tensors"]["vision"].endswith("; `components: [vision]` merges it")
    lost = told(components="[]", host=folder / "text")
    assert lost["modality_tensors"]["vision"] == "lost, since the host has none"
    (note, _) = [item for item in lost["warnings"] if "are lost" in item]
    assert f"set `space.host` to '{folder}/a'" in note
