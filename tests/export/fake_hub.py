"""The part of the Hub's HTTP interface that an upload uses, on 127.0.0.1."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from huggingface_hub import ModelCard

TOKEN = "hf_thisIsSecret0123456789"


class FakeHub:
    """Repositories, stored large files, and the requests that came in.

    Large files are uploaded to this server with LFS.
    """

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}  # by id of a repository
        self.files: dict[str, dict[str, bytes]] = {}  # committed
        self.stored: dict[str, bytes] = {}  # SHA-256 -> large file, committed or not
        self.uploads: list[str] = []  # SHA-256 of every large file whose upload began
        self.asked: list[dict] = []  # path, token, body (None if it is not JSON)
        self.refusals: dict[str, tuple[int, str]] = {}  # path -> status, message
        self.trouble: dict[str, str] = {}  # SHA-256 -> `drop` or `hang` in its upload, once
        self.hanging = threading.Event()
        self.over = threading.Event()
        self.address = ""

    def create(self, body) -> tuple[int, dict]:
        name = f"{body['organization'] or 'somebody'}/{body['name']}"
        url = {"url": f"{self.address}/{name}"}
        if name in self.private:
            return 409, {**url, "error": "You already created this model repo"}
        # The key depends on the version of the client.
        self.private[name] = body.get("visibility") == "private" or bool(body.get("private"))
        self.files[name] = {}
        return 200, url

    def preupload(self, body) -> tuple[int, dict]:
        ways = {name: "lfs" if name.endswith(".safetensors") else "regular"
                for name in (item["path"] for item in body["files"])}  # fmt: skip
        same = {"shouldIgnore": False, "oid": None}
        return 200, {"files": [{"path": k, "uploadMode": v, **same} for k, v in ways.items()]}

    def batch(self, body) -> tuple[int, dict]:
        objects = []
        for item in body["objects"]:
            href = {"upload": {"href": f"{self.address}/storage/{item['oid']}"}}
            new = item["oid"] not in self.stored
            objects.append({**item, **({"actions": href} if new else {})})
        return 200, {"transfer": "basic", "objects": objects}

    def commit(self, name: str, text: str) -> tuple[int, dict]:
        for line in map(json.loads, text.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[name][value["path"]] = self.stored[value["oid"]]
        oid = hashlib.sha1(text.encode()).hexdigest()
        url = f"{self.address}/{name}/commit/{oid}"
        return 200, {"success": True, "commitOid": oid, "commitUrl": url}

    def answer(self, path: str, text: str) -> tuple[int, dict]:
        """Return status and content for all requests but the upload of large files."""
        if path in self.refusals:
            status, message = self.refusals[path]
            return status, {"error": message}
        if path == "/api/repos/create":
            return self.create(json.loads(text))
        if path == "/api/validate-yaml":
            ModelCard(json.loads(text)["content"])  # what the client can check of a card
            return 200, {"errors": [], "warnings": []}
        if match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            return self.batch(json.loads(text))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path):
            name, rest = match[1], match[2] or ""
            if name not in self.private:
                return 404, {"error": "Repository not found"}
            if rest.startswith("/preupload/"):
                return self.preupload(json.loads(text))
            if rest.startswith("/commit/"):
                return self.commit(name, text)
            if not rest or rest.startswith("/revision/"):
                return 200, {"id": name, "private": self.private[name], "sha": "0" * 40}
        return 404, {"error": f"nothing at {path}"}


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve a hub at `hub.address` until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            path, body = self.path.partition("?")[0], None
            with suppress(json.JSONDecodeError):
                body = json.loads(text or "{}")
            self.note(path, body)
            self.reply(*hub.answer(path, text))

        def note(self, path, body):
            token = self.headers.get("Authorization")
            hub.asked.append({"path": path, "token": token, "body": body})

        do_GET = do_POST  # noqa: N815

        def do_PUT(self):
            length, oid = int(self.headers["Content-Length"]), self.path.rpartition("/")[2]
            hub.uploads.append(oid)
            self.note(self.path, None)
            if trouble := hub.trouble.pop(oid, None):
                self.rfile.read(length // 2)
                if trouble == "hang":
                    hub.hanging.set()
                    hub.over.wait(250)
                self.close_connection = True
                return
            content = self.rfile.read(length)
            assert hashlib.sha256(content).hexdigest() == oid
            hub.stored[oid] = content
            self.reply(200, {})

        def reply(self, code, content):
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            if "error" in content:
                self.send_header("X-Error-Message", content["error"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()
