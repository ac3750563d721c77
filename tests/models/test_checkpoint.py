"""Checkpoints: wrong headers are detected, and block stacks are found in the names of tensors."""

import json
import shutil
import struct
from pathlib import Path
from unittest.mock import Mock

import pytest
import safetensors
import tiny
import torch
from huggingface_hub import errors
from safetensors.torch import load_file

from evomerge.errors import CheckpointError
from evomerge.models import safetensors as safetensors_file
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import check_fit
from evomerge.models.references import open_parent, split_adapter
from evomerge.models.safetensors import read_folder, read_header
from evomerge.models.stacks import component_filters, find_stacks
from evomerge.problem.parents import absolute_parent


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def stored(header: object, data: bytes = b"") -> bytes:
    """The bytes of a safetensors file with a header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


DAMAGED = {
    "empty file": b"",
    "three bytes": b"abc",
    "header longer than the file": struct.pack("<Q", 10**6) + b"{}",
    "header of a size larger than any memory": struct.pack("<Q", 2**62) + b"{}",
    "truncated": stored({"a": entry("F32", [2], 0, 8)}, b"1234"),
    "no JSON": stored(b"{'a': 1}"),
    "a list": stored([1, 2]),
    "overlap": stored({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, b"x" * 12),
    "gap": stored({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, b"x" * 12),
    "bytes after the end": stored({"a": entry("F32", [1], 0, 4)}, b"x" * 9),
    "size is not the shape's": stored({"a": entry("F32", [3], 0, 8)}, b"x" * 8),
    "negative offset": stored({"a": entry("F32", [2], -8, 0)}),
    "negative size": stored({"a": entry("F32", [-2, -1], 0, 8)}, b"x" * 8),
    "no offsets": stored({"a": {"dtype": "F32", "shape": [1]}}, b"xxxx"),
    "text for a shape": stored({"a": entry("F32", "12", 0, 8)}, b"x" * 8),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused_with_their_name(case, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(DAMAGED[case])
    file = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=f"{file} is not a complete safetensors file"):
        read_folder(tmp_path)


def test_pointers_and_dtypes_of_no_merge_are_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        read_folder(tmp_path)
    is_old = safetensors.__version__.startswith("0.4.")  # it does not say what it cannot read
    unknown = "|is not a complete safetensors file" if is_old else ""
    file.write_bytes(stored({"a": entry("F8_E8M0", [2], 0, 2)}, b"xy"))
    with pytest.raises(CheckpointError, match=f"'a' has dtype F8_E8M0; known are BOOL{unknown}"):
        read_header(file)
    file.write_bytes(stored({"a": entry("F12", [2], 0, 3)}, b"xyz"))  # unknown to safetensors, too
    with pytest.raises(CheckpointError, match=f"a tensor has dtype F12; known are BOOL{unknown}"):
        read_header(file)


def test_headers_that_take_long_to_parse_are_refused(tmp_path, monkeypatch):
    file = tmp_path / "x.safetensors"
    many = {f"{number}": entry("F32", [0], 0, 0) for number in range(200_001)}
    file.write_bytes(stored(many))
    monkeypatch.setattr(safetensors_file, "safe_open", None)  # it would parse the header
    with pytest.raises(CheckpointError, match=r"has 200,001 tensors or more .* 200,000 tensors"):
        read_header(file)
    file.write_bytes(stored({"__metadata__": {"a": "x" * 25_000_000}}))
    with pytest.raises(CheckpointError, match=r"a header of 25,0\d\d,\d+ bytes, and at most .*"):
        read_header(file)


INDEXES = {
    "missing shard": ("model.norm.weight", "model-00009.safetensors", "missing"),
    "outside of the folder": ("model.norm.weight", "../evil.safetensors", "missing"),
    "absolute": ("model.norm.weight", "/etc/passwd", "missing"),
    "a number": ("model.norm.weight", 3, "missing"),
    "a list": ("model.norm.weight", ["a"], "missing"),
    "above the folder": ("model.norm.weight", "..", "missing"),
    "another tensor": ("model.extra", None, r"'model\.extra' is in .* but it is not"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_that_disagrees_with_the_shards_is_refused(case, tmp_path):
    name, shard, message = INDEXES[case]
    folder = tiny.make(tmp_path / "a", shards=True)
    index = folder / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"][name] = shard or data["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=message) as caught:
        Checkpoint.open(folder, "a")
    assert "index.json" in str(caught.value)


def test_pickles_are_converted_once_and_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sizes = {"hidden_size": 128, "intermediate_size": 256}  # of larger tensors, samples are covered
    folder = tiny.make(tmp_path / "a", **sizes)
    fingerprint = Checkpoint.open(folder, "a").fingerprint
    tensors: dict[str, torch.Tensor] = {}
    tiny.rewrite(folder, tensors.update)
    (folder / "model.safetensors").unlink()

    def pickled(**changes):
        names = sorted(all_of := tensors | changes)
        for number, part in enumerate((names[:5], names[5:]), 1):
            file = folder / f"pytorch_model-0000{number}-of-00002.bin"
            torch.save({name: all_of[name] for name in part} | {"step": 7}, file)
        return Checkpoint.open(folder, "a")

    assert max(info.nbytes for info in pickled().tensors.values()) > 1 << 16
    assert pickled().fingerprint == fingerprint
    for name in ("model.norm.weight", "model.embed_tokens.weight"):
        assert pickled(**{name: tensors[name] + 1}).fingerprint != fingerprint
    view = tensors["model.norm.weight"][:8]  # of a storage that two share
    for name, info in (opened := pickled(view=view)).tensors.items():
        found, own = load_file(info.file)[name], (tensors | {"view": view})[name]
        assert torch.equal(found, own) and found.dtype == own.dtype
    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read again"))
        assert Checkpoint.open(folder, "a").fingerprint == opened.fingerprint
    for file in folder.glob("*.bin"):
        file.unlink()

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    before = set((tmp_path / "cache" / "evomerge" / "weights").iterdir())
    torch.save({"model.norm.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"model\.bin cannot be read as plain weights"):
        Checkpoint.open(folder, "a")
    assert not (tmp_path / "ran").exists()
    assert set((tmp_path / "cache" / "evomerge" / "weights").iterdir()) == before


FLOAT8 = torch.float8_e4m3fn
FOLDERS = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"no config\.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no safetensors"),
    "bad config": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as"),
    "two files": (
        lambda folder: (
            shutil.copy(folder / "model.safetensors", folder / "two.safetensors")
            and (folder / "model.safetensors").rename(folder / "one.safetensors")
        ),
        "2 safetensors files and no",
    ),
    "quantised without saying so": (
        lambda folder: tiny.rewrite(folder, lambda it: it.update(w=torch.zeros(2, 2).to(FLOAT8))),
        "quantised.*'w'.*F8_E4M3",
    ),
    "GGUF beside a config": (
        lambda folder: (folder / "model.safetensors").rename(folder / "model.gguf"),
        "GGUF",
    ),
    "an adapter": (
        lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"),
        r"is an adapter.*MODEL\+a",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_that_are_not_models_are_refused(case, tmp_path):
    break_it, message = FOLDERS[case]
    folder = tiny.make(tmp_path / "a")
    break_it(folder)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder, "a")


def test_stacks_are_found_under_any_prefix():
    names = [f"net.h.{i}.{part}.weight" for i in range(3) for part in "abcd"]
    names += [f"net.h.1.experts.{e}.w.weight" for e in range(9)]
    names += [f"proj.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")]
    names += [f"gap.{i}.{part}" for i in (0, 2) for part in "abcde"]
    stacks = find_stacks(names)
    assert {prefix: len(stack) for prefix, stack in stacks.items()} == {"net.h": 3}
    assert len(stacks["net.h"].blocks[1]) == 13


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_every_tensor_of_a_block_has_a_component_that_its_filters_identify(architecture, tmp_path):
    opened = Checkpoint.open(tiny.make(tmp_path / "a", architecture, tokenizer=False), "a")
    assert len(opened.decoder_stack) == 3
    filters = component_filters(opened.decoder_stack)
    assert set(filters) >= {"attention", "mlp"}
    filters.pop("cross_attention", None)  # which is a part of the attention
    for suffix in opened.decoder_stack.blocks[0]:
        name = opened.decoder_stack.name(0, suffix)
        first = next(
            (key for key, words in filters.items() if any(word in name for word in words)), None
        )
        assert first is not None, name
        if "norm" in name.lower().rsplit(".", 2)[-2] and "mlp" in first:
            assert architecture == "bert"
        if any(word in name for word in ("q_proj", "qkv", "query", ".q.", "c_attn")):
            assert first == "attention"
        if any(word in name for word in ("down_proj", "w2", "wo.", "dense_4h_to_h")):
            assert first == "mlp" or first.startswith("expert_")


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe"])
def test_what_sends_tokens_to_experts_is_a_component(architecture, tmp_path):
    opened = Checkpoint.open(tiny.make(tmp_path / "a", architecture, tokenizer=False), "a")
    names = opened.decoder_stack.blocks[0]
    found = {
        component: {name for name in names if any(part in f"0.{name}" for part in filters)}
        for component, filters in component_filters(opened.decoder_stack).items()
    }
    (router,) = found["router"]
    assert router.endswith(".gate.weight")
    for number in range(3):
        own = {name for name in names if f".experts.{number}." in name}
        assert found[f"expert_{number}"] == own and len(own) == 3
    assert found["mlp"] == {name for name in names if ".experts." in name} | {router}


def test_heads_that_are_tied_or_stored_the_vocabulary_and_companion_files(tmp_path):
    tied = Checkpoint.open(tiny.make(tmp_path / "tied", tied=True), "tied")
    assert tied.tied and tied.head is None and tied.vocabulary == tiny.VOCABULARY
    files = {file.name for file in tied.companions}
    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json"} <= files
    own = Checkpoint.open(tiny.make(tmp_path / "own", tied=False), "own")
    assert not own.tied and own.head == "lm_head.weight"
    assert own.embedding == "model.embed_tokens.weight"
    check_fit(own, [own, tied])
    with pytest.raises(CheckpointError, match="make 'own' the host"):
        check_fit(tied, [tied, own])

    head, rows = "lm_head.weight", "model.embed_tokens.weight"
    tiny.rewrite(tmp_path / "tied", lambda it: it.update({head: it[rows].clone()}))
    copied = Checkpoint.open(tmp_path / "tied", "tied")
    assert copied.tied and copied.head == "lm_head.weight"


def test_the_fingerprint_depends_on_the_content_and_not_on_the_folder(tmp_path):
    folder = tiny.make(tmp_path / "a")
    first = Checkpoint.open(folder, "a").fingerprint
    shutil.copytree(folder, tmp_path / "b")
    assert Checkpoint.open(tmp_path / "b", "b").fingerprint == first

    name = "model.layers.1.mlp.up_proj.weight"
    tiny.rewrite(tmp_path / "b", lambda tensors: tensors[name][3, 4].add_(1e-3))
    assert Checkpoint.open(tmp_path / "b", "b").fingerprint != first
    tiny.edit_config(folder, rms_norm_eps=0.1)
    assert Checkpoint.open(folder, "a").fingerprint != first


MISFITS = {
    "vocabulary": ({"vocab_size": 50}, r"\[48, 16\].*\[50, 16\].*tokenizer: union"),
    "more heads": ({"num_key_value_heads": 2}, r"k_proj.*\[8, 16\].*\[16, 16\]"),
    "biases": ({"attention_bias": True}, "'model.layers.0.self_attn.k_proj.bias'.*no counterpart"),
    "another": ({"architecture": "gpt2"}, r"their architectures differ \(llama and gpt2\)"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_parents_that_do_not_fit_are_refused_with_the_tensor(case, tmp_path):
    changes, message = MISFITS[case]
    host = Checkpoint.open(tiny.make(tmp_path / "a"), "one")
    other = Checkpoint.open(tiny.make(tmp_path / "b", **changes), "two")
    with pytest.raises(CheckpointError, match=message) as caught:
        check_fit(host, [host, other])
    assert "'one'" in str(caught.value) and "'two'" in str(caught.value)
    if case == "biases":
        with pytest.raises(CheckpointError, match="no counterpart"):
            check_fit(other, [host])
    if case == "vocabulary":
        check_fit(host, [host, other], vocabularies=False)


def test_depths_may_differ(tmp_path):
    host = Checkpoint.open(tiny.make(tmp_path / "a"), "a")
    deeper = Checkpoint.open(tiny.make(tmp_path / "b", num_hidden_layers=5), "b")
    check_fit(host, [host, deeper])
    check_fit(deeper, [host, deeper])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.GatedRepoError, "accepted its terms"),
        (errors.RepositoryNotFoundError, "no such model"),
        (errors.RevisionNotFoundError, "revision"),
        (errors.LocalEntryNotFoundError, "cannot be reached"),
        (OSError, "mine"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence_with_its_own_advice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[Exception], words: str
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        # In huggingface_hub before 1.0, this one has no response.
        if issubclass(error, errors.HfHubHTTPError) and error is not errors.LocalEntryNotFoundError:
            raise error("mine", response=Mock())
        raise error("mine")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_parent("made-up-org/made-up-model", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_plus_can_be_part_of_a_folders_name(tmp_path, monkeypatch):
    for name in ("a", "a+b", "a+b/c+", "org/x", "lora+1"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for reference, model, adapter in (
        ("a", "a", ""),
        ("a+b", "a+b", ""),
        ("./a+b/c+", "./a+b/c+", ""),
        ("a+lora+1", "a", "lora+1"),
        (f"{tmp_path}/a+{tmp_path}/lora+1", f"{tmp_path}/a", f"{tmp_path}/lora+1"),
        ("org/y@v1+org/z", "org/y@v1", "org/z"),
        ("zoo:maths+a", "zoo:maths", "a"),
    ):
        plus = "+" if adapter else ""
        assert split_adapter(reference, tmp_path) == (model, plus, adapter)
        absolute_config = absolute_parent(reference, tmp_path)
        assert split_adapter(absolute_config, Path("/"))[1] == plus
