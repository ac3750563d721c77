"""Links, pipes and huge files in folders that a stranger has made.

Nothing private is copied or written to.
"""

import os
import shutil

import pytest
from run_folders import STATES, write_run

from evomerge import zoo
from evomerge.__main__ import run as call
from evomerge.errors import CheckpointError, EvomergeError, InputError, RunFolderError
from evomerge.export.hub import push_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import INDEX, SINGLE
from evomerge.parsing.texts import read_text
from evomerge.run.folder import RunFolder

pytestmark = pytest.mark.thorough


@pytest.fixture
def key(tmp_path):
    file = tmp_path / "home" / "id_rsa"
    file.parent.mkdir()
    file.write_text("{}")
    return file


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(zoo.path("language"), tmp_path / "model")


def link(place, target):
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(target)


@pytest.mark.parametrize(
    "name", ["vocab.txt", "config.json", "README.md", "additional_chat_templates/tool.jinja"]
)
@pytest.mark.parametrize("way", ["absolute", "relative", "by another link"])
def test_a_link_out_of_a_model_is_refused(model, key, name, way):
    place, target = model / name, key
    if way == "by another link":
        target = model / "middle.txt"
        link(target, key)
    link(place, target if way == "absolute" else os.path.relpath(target, place.parent))
    with pytest.raises(CheckpointError, match=rf"\.\w+ is a link to {key}, which is outside"):
        Checkpoint.open(model, "mine")


def test_links_inside_of_a_model_and_links_of_weights_and_of_the_whole_folder(model, tmp_path):
    weights = tmp_path / "disk" / "big.safetensors"
    weights.parent.mkdir()
    (model / SINGLE).rename(weights)
    link(model / SINGLE, weights)
    (model / "generation_config.json").rename(model / "other.json")
    link(model / "generation_config.json", "other.json")
    (tmp_path / "link").symlink_to(model)
    opened = Checkpoint.open(tmp_path / "link", "mine")
    assert opened.fingerprint == Checkpoint.open(model, "mine").fingerprint
    assert (model / "other.json") in [item.resolve() for item in opened.companions]


@pytest.mark.parametrize("shared", [False, True])  # of version 2, where models share blobs
def test_the_cache_of_the_hub_is_followed(model, tmp_path, shared):
    cache = tmp_path / "hub"
    repository = cache / "models--org--name"
    snapshot = repository / "snapshots" / "0123"
    for folder in (snapshot, repository / "blobs", cache / "blobs" / "ab"):
        folder.mkdir(parents=True)
    for number, file in enumerate(item for item in model.iterdir() if item.is_file()):
        blob = repository / "blobs" / str(number)
        file.rename(cache / "blobs" / "ab" / str(number) if shared else blob)
        if shared:
            blob.symlink_to(f"../../blobs/ab/{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert Checkpoint.open(snapshot, "org/name").companions


@pytest.mark.parametrize("place", ["models--org--name/blobs", "blobs"])
def test_a_folder_that_only_looks_like_the_cache_is_not(model, key, tmp_path, place):
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "0123"
    shutil.copytree(model, snapshot)
    link(tmp_path / "hub" / place, key.parent)
    link(snapshot / "vocab.txt", tmp_path / "hub" / place / key.name)
    with pytest.raises(CheckpointError, match=f"is a link to {key}"):
        Checkpoint.open(snapshot, "mine")


@pytest.mark.parametrize("target", ["vocab.txt", "nothing"])
def test_a_link_to_itself_or_to_nothing_is_refused(model, target):
    link(model / "vocab.txt", target)
    with pytest.raises(CheckpointError, match=r"vocab.txt is a link that leads to no file"):
        Checkpoint.open(model, "mine")


@pytest.mark.parametrize("name", ["config.json", SINGLE, "second.safetensors", "vocab.txt", INDEX])
def test_a_pipe_and_a_device_in_place_of_a_file_are_one_sentence(model, name):
    place = model / name
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        place.unlink(missing_ok=True)
        make(place)
        with pytest.raises(CheckpointError, match=f"{name} is a pipe, a socket or a device"):
            Checkpoint.open(model, "mine")


def test_a_text_is_read_from_a_shell_but_from_no_pipe_or_device(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    for path in ("/dev/zero", "pipe"):
        with pytest.raises(InputError, match=f"{path} is a pipe, a socket or a device"):
            call(["validate", path])
    reader, writer = os.pipe()
    os.write(writer, b"text")
    os.close(writer)
    assert read_text(type(tmp_path)(f"/dev/fd/{reader}"), InputError) == "text"
    os.close(reader)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", STATES["failed only"][0])


def test_a_link_out_of_a_run_folder_is_refused_by_every_command(run, tmp_path, key):
    link(run.path / "lock", key)
    for command in ("status", "results", "resume", "report", "export"):
        more = ["--out", str(tmp_path / "out")] if command == "export" else []
        with pytest.raises(RunFolderError, match=rf"{run.path / 'lock'} is a link to {key}"):
            call([command, str(run.path), *more])
    assert key.read_text() == "{}"


FILES = ["search.yaml", "journal.jsonl", "lock", "log.txt", "timings.jsonl", "best.yaml"]


@pytest.mark.parametrize("name", FILES)
def test_no_file_of_a_run_may_be_elsewhere_or_a_pipe(run, key, name):
    link(run.path / name, key)
    with pytest.raises(RunFolderError, match=rf"{run.path / name} is a link to {key}"):
        RunFolder(run.path)
    (run.path / name).unlink()
    os.mkfifo(run.path / name)
    with pytest.raises(RunFolderError, match=f"{name} is a pipe, a socket or a device"):
        RunFolder(run.path)


def test_a_run_may_be_reached_by_a_link(run, tmp_path):
    (tmp_path / "link").symlink_to(run.path)
    assert RunFolder(tmp_path / "link").events() == run.events()


@pytest.mark.parametrize("name", ["key", "sub/key"])
def test_push_uploads_ordinary_files_only(model, name):
    (model / name).parent.mkdir(exist_ok=True)
    os.mkfifo(model / name)
    with pytest.raises(EvomergeError, match=f"{name} is a pipe, a socket or a device"):
        push_model(model, "org/name", private=True)
