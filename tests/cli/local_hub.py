"""A server on this machine that answers as the Hugging Face hub does, for one model."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "1" * 40


@dataclass
class Hub:
    """`files` of `repo`; after `cuts` bytes downloads break off; `ranges` asked for."""

    repo: str
    files: Mapping[str, bytes]
    url: str = ""
    cuts: list[int] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)


@contextmanager
def serve_hub(repo: str, files: Mapping[str, bytes]) -> Iterator[Hub]:
    """Serve `files` as the model `repo` on a free port of 127.0.0.1."""
    hub = Hub(repo, files)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path, repo = unquote(urlsplit(self.path).path), self.hub.repo
        if path.startswith(f"/api/models/{repo}/tree/"):
            self.send_json([self.entry(name) for name in self.hub.files], body)
        elif path.startswith(f"/api/models/{repo}"):
            siblings = [{"rfilename": name} for name in self.hub.files]
            self.send_json({"id": repo, "sha": COMMIT, "siblings": siblings}, body)
        elif (name := path.rpartition("/resolve/main/")[2]) in self.hub.files:
            self.send_file(name, body)
        else:
            self.send_json({"error": "Repository not found"}, body, 404, "RepoNotFound")

    def entry(self, name: str) -> dict[str, object]:
        data = self.hub.files[name]
        oid = hashlib.sha1(data).hexdigest()
        return {"type": "file", "path": name, "size": len(data), "oid": oid}

    def send_json(self, value: object, body: bool, status: int = 200, code: str = "") -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def send_file(self, name: str, body: bool) -> None:
        data = self.hub.files[name]
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        if body and asked:
            self.hub.ranges.append(asked)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.send_body(data[start:])

    def send_body(self, data: bytes) -> None:
        """All of it, or as much as the next of `cuts` says before the connection breaks."""
        cut = self.hub.cuts.pop(0) if self.hub.cuts else None
        self.wfile.write(data[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
