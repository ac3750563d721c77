"""Parents in GGUF files: what transformers reads, in the cache once, or a sentence."""

import json

import pytest
import tiny
import torch
from gguf_files import write_gguf
from search_run import evomerge, searched
from transformers import AutoTokenizer

from evomerge.errors import CheckpointError
from evomerge.models.references import check_reference, open_parent

pytestmark = tiny.since_transformers_5


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evomerge" / "weights"


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16"), ("Q8_0", "bfloat16")],
)
def test_weights_are_those_of_the_library_of_llama_cpp(kind, dtype, tmp_path, cache):
    weights = write_gguf(tmp_path / "a.gguf", kind)
    check_reference("a.gguf", tmp_path)
    assert not cache.exists()  # a check converts nothing
    parent = open_parent("a.gguf", tmp_path)
    made = parent.folder.stat().st_mtime_ns
    assert parent.config["dtype"] == dtype and parent.chat_template
    loaded = tiny.load(parent.folder).state_dict()
    for name, weight in weights.items():
        assert torch.equal(loaded[name], weight.to(getattr(torch, dtype))), name
    assert AutoTokenizer.from_pretrained(parent.folder)("abc").input_ids == [27, 3]
    assert open_parent("a.gguf", tmp_path).folder.stat().st_mtime_ns == made


def test_a_search_takes_files_and_says_what_they_took(tmp_path):
    for seed, name in enumerate(("a", "b")):
        write_gguf(tmp_path / f"{name}.gguf", "Q8_0", seed=seed)
    pairs = ({"question": a, "answer": b} for a in "abcdefg" for b in "hijk")
    rows = "".join(json.dumps(pair) + "\n" for pair in pairs)
    (tmp_path / "my.jsonl").write_text(rows)
    file = tmp_path / "search.yaml"
    parents = ["--parents", "a.gguf", "b.gguf"]
    evomerge("init", file, *parents, "--task", "my.jsonl", cwd=tmp_path)
    said = evomerge("validate", file, cwd=tmp_path)
    assert "a.gguf was converted from GGUF into" in said.stdout + said.stderr
    run = searched(file, tmp_path / "run", candidates=4)
    assert run.winner.scores("test")


def test_what_cannot_be_merged_is_refused_with_the_way_to_convert_it(tmp_path):
    write_gguf(tmp_path / "coarse.gguf", "Q4_0")
    with pytest.raises(
        CheckpointError, match=r"in Q4_0, which .* the three lines of docs/how-to/gguf"
    ):
        check_reference("coarse.gguf", tmp_path)
    write_gguf(tmp_path / "other.gguf", "F32", architecture="rwkv7")
    with pytest.raises(CheckpointError, match="architecture 'rwkv7', which the installed"):
        check_reference("other.gguf", tmp_path)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(50))
    with pytest.raises(CheckpointError, match="cannot be read as GGUF"):
        check_reference("bad.gguf", tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        check_reference("./missing.gguf", tmp_path)
