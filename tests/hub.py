"""A stand-in of the hub's API on loopback: enough of it for a commit with large files."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_stand_in"


class Hub:
    """repositories: by name, what of them is known, and their files. refuses: by path, a status and what is said."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.refuses: dict[str, tuple[int, str]] = {}
        self.asked: list[str] = []  # method and path of every request
        self.stored: dict[str, bytes] = {}
        self.address = ""

    def make(self, name: str, *, private: bool = False, **files: bytes) -> None:
        self.repositories[name] = {"private": private, "files": dict(files)}

    def files(self, name: str) -> dict[str, bytes]:
        found: dict[str, bytes] = self.repositories[name]["files"]
        return found

    def answer(self, method: str, path: str, token: str | None, content: bytes) -> tuple[int, Any, dict[str, str]]:
        """(status, JSON, headers) to a request. path: without the query."""
        self.asked.append(f"{method} {path}")
        if path in self.refuses:
            status, said = self.refuses[path]
            return status, {"error": said}, {}
        if method == "PUT":  # of a large file, by its hash
            self.stored[path.rpartition("/")[2]] = content
            return 200, {}, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}, {}
        if path == "/api/whoami-v2":
            return 200, {"name": "someone"}, {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": [{"message": "empty or missing yaml metadata"}]}, {}
        data = json.loads(content) if content.startswith(b"{") and b"\n" not in content.strip() else None
        if path == "/api/repos/create":
            return self._create(data)
        name = "/".join((path.removeprefix("/api/models") if path.startswith("/api") else path).split("/")[1:3])
        name = name.removesuffix(".git")
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        if path.endswith("/info/lfs/objects/batch"):
            actions = [{**one, "actions": self._upload(one["oid"])} for one in data["objects"]]
            return 200, {"transfer": "basic", "objects": actions}, {}
        rest = path.removeprefix(f"/api/models/{name}")
        if rest == "":
            return 200, {"id": name, "private": self.repositories[name]["private"], "sha": "0" * 40}, {}
        if rest.startswith("/tree"):
            return 200, [{"type": "file", "path": one, "size": 1, "oid": "0"} for one in self.files(name)], {}
        if rest.startswith("/preupload"):
            return 200, {"files": [self._mode(one["path"]) for one in data["files"]]}, {}
        assert rest.startswith("/commit"), path
        self._commit(name, content)
        return 200, {"success": True, "commitUrl": f"{self.address}/{name}/commit/1", "commitOid": "1" * 40}, {}

    @staticmethod
    def _mode(path: str) -> dict[str, Any]:
        kind = "lfs" if path.endswith(".safetensors") else "regular"
        return {"path": path, "uploadMode": kind, "shouldIgnore": False}

    def _create(self, data: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        name = f"{data['organization']}/{data['name']}"
        if name in self.repositories:
            return 409, {"error": "You already created this model repo", "url": f"{self.address}/{name}"}, {}
        private = data.get("private") or data.get("visibility") == "private"
        self.repositories[name] = {"private": bool(private), "files": {".gitattributes": b""}}
        return 200, {"url": f"{self.address}/{name}", "id": name}, {}

    def _upload(self, oid: str) -> dict[str, Any]:
        return {"upload": {"href": f"{self.address}/lfs/{oid}", "header": {}}}

    def _commit(self, name: str, content: bytes) -> None:
        files = self.files(name)
        for line in content.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            content = self._content()
            path = self.path.partition("?")[0]
            status, data, headers = hub.answer(self.command, path, self.headers.get("Authorization"), content)
            body = json.dumps(data).encode()
            self.send_response(status)
            for key, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def _content(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while length := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(length))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_POST = do_PUT = _serve  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
