"""A stand-in for the Hugging Face Hub: the part of its HTTP interface that fetching and pushing files use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0" * 40


class Hub(ThreadingHTTPServer):
    """Repositories in memory: name to file name to content."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.token = "right"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, values: Any = None, headers: dict[str, str] | None = None) -> None:
        content = values if isinstance(values, bytes) else json.dumps(values).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _missing(self, code: str) -> None:
        self._answer(404, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        if found := re.match(r"/api/models/([^/]+/[^/]+)(?:/(tree|revision)/([^/?]+))?(?:\?.*)?$", self.path):
            self._listing(*found.groups())
        elif found := re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", self.path):
            self._file(*found.groups())
        else:
            self._missing("RepoNotFound")

    do_HEAD = do_GET

    def _listing(self, name: str, kind: str | None, revision: str | None) -> None:
        files = self.server.repositories.get(name)
        if files is None:
            return self._missing("RepoNotFound")
        if revision not in (None, "main", COMMIT):
            return self._missing("RevisionNotFound")
        if kind == "tree":
            tree = [
                {"type": "file", "path": path, "size": len(c), "oid": COMMIT} for path, c in files.items()
            ]
            return self._answer(200, tree)
        siblings = [{"rfilename": path} for path in files]
        return self._answer(200, {"id": name, "sha": COMMIT, "siblings": siblings, "private": False})

    def _file(self, name: str, revision: str, path: str) -> None:
        files = self.server.repositories.get(name)
        if files is None:
            return self._missing("RepoNotFound")
        if revision not in ("main", COMMIT):
            return self._missing("RevisionNotFound")
        if path not in files:
            return self._answer(
                404, {"error": "no entry"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            )
        tag = hashlib.sha256(files[path]).hexdigest()
        return self._answer(200, files[path], {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def do_POST(self) -> None:
        self.server.asked.append(f"POST {self.path}")
        body = self._body()
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if name in self.server.repositories:
                return self._answer(409, {"error": "exists", "url": f"{self.server.address}/{name}"})
            self.server.repositories[name] = {}
            return self._answer(200, {"url": f"{self.server.address}/{name}"})
        if found := re.match(r"/api/models/([^/]+/[^/]+)/preupload/", self.path):
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            return self._answer(200, {"files": [{**f, "shouldIgnore": False} for f in files]})
        if found := re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.server.repositories[found[1]][value["path"]] = base64.b64decode(value["content"])
            url = f"{self.server.address}/{found[1]}/commit/{COMMIT}"
            return self._answer(200, {"commitUrl": url, "commitOid": COMMIT, "success": True})
        return self._missing("RepoNotFound")


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve an empty hub on this machine until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
