"""Links and pipes in folders that a stranger has made: nothing private is copied or written to."""

import json
import os
import shutil

import pytest
from run_folders import STATES, write_run
from search_run import write_search

from evomerge import zoo
from evomerge.__main__ import run as call
from evomerge.errors import CheckpointError, EvomergeError, InputError, RunFolderError
from evomerge.export.hub import push_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import INDEX, SINGLE, read_folder
from evomerge.parsing.texts import read_text
from evomerge.run.folder import RunFolder

pytestmark = pytest.mark.thorough

COPIED = (
    *("vocab.txt", "chat_template.jinja", "tokenizer.json", "generation_config.json"),
    *("config.json", "README.md", "additional_chat_templates/tool.jinja"),
)


@pytest.fixture
def key(tmp_path):
    """A private file."""
    file = tmp_path / "home" / "id_rsa"
    file.parent.mkdir()
    file.write_text("{}")
    return file


@pytest.fixture
def model(tmp_path):
    """A model folder."""
    shutil.copytree(zoo.path("language"), tmp_path / "model")
    return tmp_path / "model"


def link(place, target):
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(target)


@pytest.mark.parametrize("name", COPIED)
@pytest.mark.parametrize("relative", [False, True])
def test_a_link_out_of_a_model_is_refused(model, key, name, relative):
    place = model / name
    link(place, os.path.relpath(key, place.parent) if relative else key)
    with pytest.raises(CheckpointError, match=rf"{place} is a link to {key}, which is outside"):
        Checkpoint.open(model, "mine")


def test_a_folder_of_templates_may_not_be_elsewhere(model, key):
    link(model / "additional_chat_templates", key.parent)
    with pytest.raises(CheckpointError, match=f"is a link to {key}"):
        Checkpoint.open(model, "mine")


def test_a_link_to_a_link_out_is_refused(model, key):
    link(model / "middle.txt", key)
    link(model / "vocab.txt", "middle.txt")
    with pytest.raises(CheckpointError, match=f"is a link to {key}"):
        Checkpoint.open(model, "mine")


def test_a_search_with_such_a_parent_is_refused(model, key, tmp_path):
    link(model / "vocab.txt", key)
    search = write_search(tmp_path, parents=[str(model), "zoo:maths"])
    with pytest.raises(CheckpointError, match="is a link to"):
        call(["validate", str(search)])


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
    assert (model / "generation_config.json").resolve() in map(
        type(model).resolve, opened.companions
    )


@pytest.mark.parametrize("shared", [False, True])
def test_the_cache_of_the_hub_is_followed(model, tmp_path, shared):
    """In its first layout, and in that of version 2, where models share blobs."""
    cache = tmp_path / "hub"
    repository = cache / "models--org--name"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (cache / "blobs" / "ab").mkdir(parents=True)
    for number, file in enumerate(item for item in model.iterdir() if item.is_file()):
        blob = repository / "blobs" / str(number)
        if shared:
            file.rename(cache / "blobs" / "ab" / str(number))
            blob.symlink_to(f"../../blobs/ab/{number}")
        else:
            file.rename(blob)
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


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "..", "a/b", ""])
def test_an_index_that_names_a_file_elsewhere_is_refused(model, tmp_path, shard):
    shutil.copy(model / SINGLE, tmp_path / "secret.safetensors")
    names = dict.fromkeys(read_folder(model), shard)
    (model / INDEX).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError, match="which is not the name of a file in the folder"):
        Checkpoint.open(model, "mine")


@pytest.mark.parametrize(
    "name", ["config.json", SINGLE, "second.safetensors", "vocab.txt", INDEX, "x.bin"]
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_device_in_a_model_is_one_sentence(model, name, kind):
    (model / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(model / name)
    else:
        (model / name).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=f"{name} is a pipe, a socket or a device"):
        Checkpoint.open(model, "mine")


@pytest.mark.parametrize("name", ["config.json", SINGLE, INDEX, "chat_template.jinja"])
def test_a_folder_in_place_of_a_file_is_one_sentence(model, name):
    (model / name).unlink(missing_ok=True)
    (model / name).mkdir()
    try:
        opened = Checkpoint.open(model, "mine")
    except CheckpointError:
        return
    assert name in (INDEX, "chat_template.jinja") and opened.companions


@pytest.mark.parametrize("path", ["/dev/zero", "pipe"])
def test_a_text_is_not_read_from_a_pipe_or_a_device(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(InputError, match=f"{path} is a pipe, a socket or a device"):
        call(["validate", path])


def test_what_a_shell_gives_as_a_file_is_read():
    reader, writer = os.pipe()
    os.write(writer, b"text")
    os.close(writer)
    assert read_text(type(zoo.path("base"))(f"/dev/fd/{reader}"), InputError) == "text"
    os.close(reader)


FILES = ("search.yaml", "journal.jsonl", "lock", "log.txt", "timings.jsonl", "best.yaml", "models")


@pytest.mark.parametrize("command", ["status", "results", "resume", "report", "export"])
def test_a_link_out_of_a_run_folder_is_refused_by_every_command(tmp_path, key, command):
    run = write_run(tmp_path / "run", STATES["failed only"][0]).path
    link(run / "lock", key)
    more = ["--out", str(tmp_path / "out")] if command == "export" else []
    with pytest.raises(RunFolderError, match=rf"{run / 'lock'} is a link to {key}"):
        call([command, str(run), *more])
    assert key.read_text() == "{}"


@pytest.mark.parametrize("name", FILES)
def test_no_file_of_a_run_may_be_elsewhere(tmp_path, key, name):
    run = write_run(tmp_path / "run", STATES["failed only"][0]).path
    link(run / name, key.parent if name == "models" else key)
    with pytest.raises(RunFolderError, match=rf"{run / name} is a link to {key.parent}"):
        RunFolder(run)


@pytest.mark.parametrize("name", FILES[:-1])
def test_a_pipe_in_a_run_folder_is_one_sentence(tmp_path, name):
    run = write_run(tmp_path / "run", STATES["failed only"][0]).path
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    with pytest.raises(RunFolderError, match=f"{name} is a pipe, a socket or a device"):
        RunFolder(run)


def test_a_run_may_be_reached_by_a_link(tmp_path):
    run = write_run(tmp_path / "run", STATES["failed only"][0])
    (tmp_path / "link").symlink_to(run.path)
    assert RunFolder(tmp_path / "link").events() == run.events()


@pytest.mark.parametrize("name", ["key", "sub/key"])
def test_push_uploads_ordinary_files_only(model, name):
    (model / name).parent.mkdir(exist_ok=True)
    os.mkfifo(model / name)
    with pytest.raises(EvomergeError, match=f"{name} is a pipe, a socket or a device"):
        push_model(model, "org/name", private=True)
