"""Writing checkpoints: complete or not at all, within the memory limit."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import tiny
import torch
from merges import every, mix
from safetensors import safe_open
from safetensors.torch import load_file

from evomerge.errors import CandidateError, CheckpointError, DiskError, RecipeError
from evomerge.merging.tensors.reader import TensorReader
from evomerge.merging.writer import write_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import INDEX, read_folder
from evomerge.recipe import Recipe
from evomerge.run.atomic import atomic_folder

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("stream")
    return {name: tiny.make(root / name, seed=i, dtype="bfloat16") for i, name in enumerate("ab")}


@pytest.fixture(scope="module")
def checkpoints(folders):
    return {name: Checkpoint.open(folder, name) for name, folder in folders.items()}


def recipe(dtype="bfloat16"):
    layers = [mix({"a": 0.3, "b": 1.0}, i) for i in (0, 1, 2, None)]
    return Recipe("a", {"model.layers": layers[:3]}, layers[3], layers[3], dtype=dtype)


def leftovers(folder):
    return [item for item in folder.iterdir() if "partial" in item.name]


def test_one_file_or_shards_hold_the_same_tensors(checkpoints, tmp_path):
    one, many = tmp_path / "one", tmp_path / "many"
    write_model(recipe(), checkpoints, one)
    write_model(recipe(), checkpoints, many, shard_size="3000")
    assert not (one / INDEX).exists()
    index = json.loads((many / INDEX).read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 3 and shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    weights = sum(info.nbytes for info in read_folder(many).values())
    assert index["metadata"]["total_size"] == weights
    whole = load_file(one / "model.safetensors")
    for shard in shards:
        with safe_open(many / shard, "pt") as file:
            assert file.metadata() == {"format": "pt"}
        tensors = load_file(many / shard)
        assert len(tensors) == 1 or sum(item.nbytes for item in tensors.values()) <= 3000
        for name, tensor in tensors.items():
            assert torch.equal(tensor, whole.pop(name)), name
    assert not whole
    assert torch.equal(*(tiny.logits(tiny.load(folder)) for folder in (one, many)))


def test_host_files_come_along_and_extra_ones_replace_them(folders, checkpoints, tmp_path):
    folder, out = Path(shutil.copytree(folders["a"], tmp_path / "host")), tmp_path / "out"
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "training_args.bin").write_bytes(b"x")
    (folder / "README.md").write_text("the parent's own card")
    mixed = {**checkpoints, "a": Checkpoint.open(folder, "a")}
    extra = {"README.md": "# merged\n", "generation_config.json": '{"eos_token_id": 7}'}
    write_model(recipe("float16"), mixed, out, texts=extra)
    ours = ("config.json", "model.safetensors", "tokenizer_config.json")
    copied = ("tokenizer.json", "chat_template.jinja")
    assert {file.name for file in out.iterdir()} == {*ours, *copied, *extra}
    text = (out / "config.json").read_text()
    assert "float16" in text and "bfloat16" not in text
    assert {name: (out / name).read_text() for name in extra} == extra
    for name in copied:
        assert (out / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("out", r"out exists already"),
        ("link", r"link exists already"),
        ("file/out", r"cannot be created: .*file \(Not a directory\); name another"),
    ],
)
def test_an_output_that_exists_or_cannot_be_made_is_refused(checkpoints, tmp_path, out, words):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=words):
        write_model(recipe(), checkpoints, tmp_path / out)


def test_a_failure_or_an_interrupt_half_way_leaves_nothing(checkpoints, tmp_path, monkeypatch):
    blocks = [mix({"a": float(i < 2)}, i) for i in range(3)]
    bad, seen = replace(recipe(), layers={"model.layers": blocks}), []
    with pytest.raises(CandidateError, match=r"model\.layers\.2\."):
        write_model(bad, checkpoints, tmp_path / "out")
    assert not list(tmp_path.iterdir())

    def stop(reader, source):
        seen.append(source.name)
        if source.name.startswith("model.layers.1."):
            raise KeyboardInterrupt
        return read(reader, source)

    read = TensorReader.read
    monkeypatch.setattr(TensorReader, "read", stop)
    with pytest.raises(KeyboardInterrupt):
        write_model(recipe(), checkpoints, tmp_path / "out")
    assert len(seen) > 5 and not list(tmp_path.iterdir())  # it was in the middle


def test_a_disk_without_room_is_refused_before_the_first_byte(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(9, 4, 5))
    with pytest.raises(DiskError, match=r"would take .* GB and .* has 0\.00 GB free"):
        write_model(recipe(), checkpoints, tmp_path / "deep" / "out")
    assert not list(tmp_path.iterdir())


def test_the_memory_of_whole_matrices_counts(tmp_path):
    """TSV-M holds 16.5 float64 copies of a matrix with two sources: 1.1 GB of this one."""
    folder, name = tiny.make(tmp_path / "a"), "model.layers.1.mlp.up_proj.weight"
    wide = torch.zeros(4000, 2000, dtype=torch.bfloat16)
    tiny.rewrite(folder, lambda tensors: tensors.update({name: wide}))
    checkpoints = {n: Checkpoint.open(folder, n) for n in "abc"}

    def merge(method, memory):
        merged = every(checkpoints["a"], lambda i: mix("ab", i, method, "c"), dtype="bfloat16")
        write_model(merged, checkpoints, tmp_path / "out", memory=str(memory))

    memory = psutil.Process().memory_info().rss + (700 << 20)
    words = rf"tsv about 1\.10 GB more for the tensor '{name}' \[4000, 2000\]; give at least"
    with pytest.raises(RecipeError, match=words):
        merge("tsv", memory)
    with pytest.raises(RecipeError, match=r"memory is 0\.10 GB, and the process takes"):
        merge("linear", 100_000_000)
    merge("task_arithmetic", memory)


def run(code, folders, *arguments):
    """Start a Python process with the fixture's recipe and checkpoints."""
    here = Path(__file__).resolve().parent
    opened = {name: str(folder) for name, folder in folders.items()}
    start = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from evomerge.models.checkpoint import Checkpoint\n"
        "from evomerge.merging.writer import write_model\n"
        "from test_writer import recipe\n"
        f"checkpoints = {{n: Checkpoint.open(Path(it), n) for n, it in {opened}.items()}}\n"
        "out = Path(sys.argv[1])\n"
    )
    places = os.pathsep.join(map(str, (here.parents[1], here.parent / "shared", here)))
    return subprocess.Popen(
        [sys.executable, "-c", start + code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": places},
    )


def test_a_full_disk_half_way_leaves_nothing_and_says_so(checkpoints, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        with pytest.raises(DiskError, match=r"out cannot be written: File too large; free space"):
            write_model(recipe(), checkpoints, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_killed_writer_leaves_no_model_and_the_next_one_cleans_up(folders, checkpoints, tmp_path):
    code = (
        "from evomerge.merging.tensors.reader import TensorReader\n"
        "def wait(reader, source, read=TensorReader.read):\n"
        "    if source.name.startswith('model.layers.1.'):\n"
        "        print('writing', flush=True)\n"
        "        time.sleep(60)\n"
        "    return read(reader, source)\n"
        "TensorReader.read = wait\n"
        "write_model(recipe(), checkpoints, out)\n"
    )
    process = run(code, folders, tmp_path / "out")
    assert "writing" in process.stdout.readline()
    assert len(leftovers(tmp_path)) == 1
    with atomic_folder(tmp_path / "out") as folder:
        assert len(leftovers(tmp_path)) == 2  # a living writer's folder is left alone
        (folder / "x").write_text("")
        process.send_signal(signal.SIGKILL)
        process.wait()
    shutil.rmtree(tmp_path / "out")
    assert len(leftovers(tmp_path)) == 1
    write_model(recipe(), checkpoints, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["out"]
