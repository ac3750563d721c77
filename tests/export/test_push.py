"""`evomerge push` to a Hub that refuses: the requests that are sent, and the error messages."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from search_run import evomerge

from evomerge.__main__ import run as call
from evomerge.errors import InputError


@contextmanager
def hub(creates: bool) -> Iterator[tuple[str, list[dict]]]:
    """A server that refuses all files and records requests; `creates`: whether it creates repos."""
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(
                {
                    "path": self.path,
                    "token": self.headers.get("Authorization"),
                    "body": json.loads(body or b"{}"),
                }
            )
            if creates and self.path == "/api/repos/create":
                self.answer(200, {"url": f"{address}/somebody/merged"})
            else:
                self.answer(403, {"error": "refused"})

        do_GET = do_PUT = do_POST  # noqa: N815

        def answer(self, code, content):
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Error-Message", "You may not write here")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield address, asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def push(address, model, repository, *options):
    done = evomerge(
        *("push", model, repository, *options),
        code=1,
        HF_HUB_OFFLINE="0",
        HF_ENDPOINT=address,
        HF_TOKEN="hf_nobody",
    )
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("evomerge: ")]
    assert f"{model} could not be pushed to {repository}" in sentence
    assert "hf auth login" in sentence
    assert "Traceback" not in done.stderr
    return sentence


@pytest.mark.parametrize(("options", "private"), [((), True), (("--public",), False)])
def test_a_refused_repository(model, options, private):
    with hub(creates=False) as (address, asked):
        sentence = push(address, model, "org/merged", *options)
    assert "403" in sentence
    assert "You may not write here" in sentence
    first = next(item for item in asked if item["path"] == "/api/repos/create")
    assert first["token"] == "Bearer hf_nobody"
    assert first["body"]["name"] == "merged"
    assert first["body"]["organization"] == "org"
    said = first["body"].get("visibility", first["body"].get("private"))  # by the client's version
    assert said in ((True, "private") if private else (False, "public"))


def test_refused_files_of_a_name_that_the_hub_completed(model):
    """The Hub completes a name without an owner, and the files are sent to the complete id."""
    with hub(creates=True) as (address, asked):
        push(address, model, "merged")
    places = [item["path"] for item in asked if item["path"].startswith("/api/models/")]
    assert places
    assert all(path.startswith("/api/models/somebody/merged/") for path in places)


def test_a_hub_that_is_not_there(model):
    push("http://127.0.0.1:9", model, "org/merged")


@pytest.mark.parametrize("repository", ["org/name/more", "no spaces/name", "../model", "-x/name"])
def test_an_id_that_cannot_be_one(model, repository):
    with pytest.raises(InputError, match="REPO_ID is ") as caught:
        call(["push", str(model), "--", repository])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_is_no_model(model, missing):
    (model / missing).unlink()
    with pytest.raises(InputError, match="is not a model folder"):
        call(["push", str(model), "org/name"])
