"""`evomerge push` to a Hub on this machine: what arrives there, and what is refused."""

import hashlib
import json
import subprocess

import numpy as np
import pytest
from export.fake_hub import TOKEN, FakeHub, serve
from safetensors.numpy import save_file
from search_run import command, environment, evomerge

from evomerge.__main__ import run as call
from evomerge.errors import InputError
from evomerge.export.hub import push_model
from evomerge.models.safetensors import INDEX

pytestmark = pytest.mark.thorough


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    files = {f"w{number}": f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    texts = {"config.json": "{}", "README.md": "# m\n", "evomerge_recipe.yaml": "host: org/base\n"}
    texts[INDEX] = json.dumps({"weight_map": files})
    for name, text in texts.items():
        (folder / name).write_text(text)
    for number, (tensor, name) in enumerate(files.items()):
        save_file({tensor: np.full(500_000, number, np.float32)}, folder / name)
    return folder


@pytest.fixture
def hub():
    with serve(FakeHub()) as hub:
        yield hub


def settings(hub, folder):
    place = {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder.parent / "cache")}
    return {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN} | place


def push(hub, model, repository, *options, code=0):
    arguments = ("push", model, repository, *options)
    done = evomerge(*arguments, code=code, **settings(hub, model))
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done


def sentence(done):
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("evomerge: ")]
    assert not any(end in line for end in (".;", ".:", ";;", ". ;"))
    return line


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights(model):
    return sorted(model.glob("*.safetensors"))


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize(("options", "private"), [((), True), (("--public",), False)])
def test_every_file_arrives_in_its_repository(hub, model, options, private, is_new):
    (model / "again.json").symlink_to("config.json")  # a link inside of the folder is a file
    before = {} if is_new else {"notes.md": b"mine"}
    if not is_new:
        hub.private["somebody/merged"], hub.files["somebody/merged"] = private, before
    done = push(hub, model, "merged", *options)  # the Hub completes the name by the owner
    assert hub.files == {"somebody/merged": before | contents(model)}
    assert hub.private == {"somebody/merged": private}
    assert f"pushed to {hub.address}/somebody/merged/commit/" in done.stdout + done.stderr


def test_a_dry_run_says_what_would_be_uploaded(hub, model):
    (model / "[a].yaml").write_text("host: /home/somebody/model\n")
    files = {*contents(model)} - {"[a].yaml"} | {"more/[a].yaml"}
    for name in ("more/[a].yaml", ".git/HEAD", ".cache/huggingface/x"):
        (model / name).parent.mkdir(parents=True)
        (model / name).touch()
    done = push(hub, model, "org/merged", "--dry-run")
    rows = [line.split("\t") for line in done.stdout.splitlines()[1:]]
    assert {name for name, _ in rows} == files
    assert ["README.md", "4 B"] in rows and hub.asked == []
    assert "[a].yaml was not uploaded" in done.stderr and "nothing was uploaded" in done.stderr
    push(hub, model, "org/merged")
    assert hub.files["org/merged"].keys() == files
    assert "check the id" in push(hub, model, "no/such/id", "--dry-run", code=2).stderr


def test_the_token_is_sent_to_the_hub_and_written_nowhere(hub, model, tmp_path):
    push(hub, model, "org/merged")
    sent = {item["path"]: item["token"] for item in hub.asked}
    storage = [path for path in sent if path.startswith("/storage/")]
    assert len(storage) == 2 and {sent[path] for path in storage} == {None}
    for path in ("/api/repos/create", "/api/models/org/merged/commit/main"):
        assert sent[path] == f"Bearer {TOKEN}"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert model / "README.md" in files
    assert not any(TOKEN.encode() in path.read_bytes() for path in files)


def test_a_push_that_was_killed_goes_on(hub, model):
    """Of two weight files the first is stored and the second half sent when the process dies."""
    first, second = weights(model)
    hub.stored[digest(first)] = first.read_bytes()
    hub.trouble[digest(second)] = "hang"
    arguments, variables = command("push", model, "org/merged"), environment(**settings(hub, model))
    process = subprocess.Popen(arguments, env=variables, stderr=subprocess.DEVNULL)
    try:
        assert hub.hanging.wait(250)
    finally:
        process.kill()
        process.wait()
    assert hub.files == {"org/merged": {}}
    before = contents(model)
    push(hub, model, "org/merged")
    assert hub.files == {"org/merged": before} and contents(model) == before
    assert hub.uploads == [digest(second), digest(second)]


def test_a_dropped_connection_is_tried_again_and_weights_are_not_sent_twice(hub, model):
    first, second = weights(model)
    hub.trouble[digest(first)] = "drop"
    commit = "/api/models/org/merged/commit/main"
    hub.refusals[commit] = (403, "You have read-only access.")
    said = sentence(push(hub, model, "org/merged", code=1))
    assert "You have read-only access; check" in said and "the same command again" in said
    hub.refusals.clear()
    push(hub, model, "org/merged")
    assert hub.files == {"org/merged": contents(model)}
    assert sorted(hub.uploads) == sorted([digest(first), digest(first), digest(second)])


@pytest.mark.parametrize(
    ("is_private", "options", "advice"),
    [(False, (), "give --public"), (True, ("--public",), "give --private")],
)
def test_a_repository_that_is_not_what_the_option_says(hub, model, is_private, options, advice):
    hub.private["org/merged"] = is_private
    said = sentence(push(hub, model, "org/merged", *options, code=2))
    assert f"org/merged {'is private' if is_private else 'exists and is public'}" in said
    assert advice in said and hub.private == {"org/merged": is_private}
    assert not hub.uploads and not any("/commit/" in item["path"] for item in hub.asked)


def test_recipes_that_name_folders_of_this_machine_stay_here(hub, model):
    places = {"evomerge_recipe.yaml": "/home/me/models/base", "mergekit_config.yml": "~/base"}
    for name, place in places.items():
        (model / name).write_text(f"models:\n- model: {place}\n")
    done = push(hub, model, "org/merged")
    assert hub.files["org/merged"].keys() == contents(model).keys() - places.keys()
    for name in places:
        assert f"{name} was not uploaded" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("status", "answer", "code", "words"),
    [
        (400, "This name is reserved.", 2, "This name is reserved; check the id."),
        (403, f"The token {TOKEN} may not write.", 1, "The token (token) may not write; check"),
        (None, "", 1, "could not be pushed to org/merged"),
    ],
)
def test_a_refusal_is_one_sentence_without_the_token(hub, model, status, answer, code, words):
    hub.refusals["/api/repos/create"] = (status, answer)
    hub.address = hub.address if status else "http://127.0.0.1:9"  # where nobody answers
    said = sentence(push(hub, model, "org/merged", code=code))
    assert words in said and ("hf auth login" in said) == (code == 1)


def test_ids_that_cannot_be_one_and_folders_that_are_no_model(model, tmp_path):
    for repository in ("", "org/name/more", "no spaces/name", "org/na--me"):
        with pytest.raises(InputError, match="check the id"):
            push_model(model, repository, private=True)
    for outside in (tmp_path, tmp_path / "key.txt"):
        (tmp_path / "key.txt").touch()
        (model / "link").symlink_to(outside)
        with pytest.raises(InputError, match=f"{model / 'link'} is a link to {outside}"):
            push_model(model, "org/name", private=True)
        (model / "link").unlink()
    for missing in ("*.safetensors", "config.json"):
        for path in model.glob(missing):
            path.unlink()
        with pytest.raises(InputError, match=r"is not a model folder.*; give the folder that `evo"):
            call(["push", str(model), "org/name"])


@pytest.mark.parametrize("place", ["", "2_Dense"])
def test_a_weight_file_that_is_not_whole_is_not_uploaded(hub, model, place):
    whole, *_ = weights(model)
    cut = model / place / "cut.safetensors"
    cut.parent.mkdir(exist_ok=True)
    cut.write_bytes(whole.read_bytes()[:-1])
    said = sentence(push(hub, model, "org/merged", code=2))
    assert f"{cut} is not a complete safetensors file" in said
    cut.unlink()
    whole.unlink()
    assert f"{whole.name}', which is missing" in sentence(push(hub, model, "org/merged", code=2))
    assert not hub.asked
