"""A hub on this machine: repositories with a history, files by range, connections that break where a test wants it.

Large files are redirected to a second address, as the real hub redirects to its content network.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = 4096
Files = dict[str, bytes]


@dataclass(frozen=True)
class Sent:
    """One answer with bytes of a file."""

    path: str
    begin: int
    count: int
    authorization: str | None


@dataclass
class StandInHub:
    """``commits[repository]`` are (name, files), the newest last; ``served`` may hold other bytes than were announced.

    ``breaks[path]`` are numbers of bytes after which the next answers end; ``pace`` is seconds for each 64 kB.
    """

    commits: dict[str, list[tuple[str, Files]]] = field(default_factory=dict)
    served: Files = field(default_factory=dict)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    whole_only: bool = False
    pace: float = 0.0
    sent: list[Sent] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""
    store: str = ""

    def push(self, repository: str, files: Files) -> str:
        """A new commit of a repository."""
        history = self.commits.setdefault(repository, [])
        commit = hashlib.sha1(f"{repository} {len(history)}".encode()).hexdigest()
        history.append((commit, files))
        return commit

    def find(self, repository: str, revision: str) -> tuple[str, Files] | None:
        history = self.commits.get(repository, [])
        if revision == "main":
            return history[-1] if history else None
        return next((entry for entry in history if entry[0] == revision), None)

    def bytes_of(self, path: str) -> int:
        return sum(sent.count for sent in self.sent if sent.path == path)

    @contextmanager
    def run(self) -> Iterator[StandInHub]:
        handler = type("Handler", (_Handler,), {"hub": self})
        servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self.url = f"http://127.0.0.1:{servers[0].server_port}"
        self.store = f"http://localhost:{servers[1].server_port}"
        threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            for server, thread in zip(servers, threads, strict=True):
                server.shutdown()
                server.server_close()
                thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._describe(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*found.groups())
        elif found := re.fullmatch(r"/store/([^/]+/[^/]+)/([^/]+)/(.+)", path):
            self._file(*found.groups())
        else:
            self._answer(404, b"{}")

    def _describe(self, repository: str, revision: str) -> None:
        found = self.hub.find(repository, revision)
        if found is None:
            missing = "RevisionNotFound" if repository in self.hub.commits else "RepoNotFound"
            return self._answer(404, b"{}", {"X-Error-Code": missing})
        commit, files = found
        listed = [_entry(name, content) for name, content in files.items()]
        about = {"id": repository, "modelId": repository, "sha": commit, "siblings": listed, "tags": []}
        return self._answer(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repository: str, commit: str, path: str) -> None:
        found = self.hub.find(repository, commit)
        if found is None or path not in found[1]:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        if len(found[1][path]) < LARGE:
            return self._file(repository, commit, path)
        return self._answer(302, b"", {"Location": f"{self.hub.store}/store/{repository}/{commit}/{path}"})

    def _file(self, repository: str, commit: str, path: str) -> None:
        content = self.hub.served.get(path, self.hub.find(repository, commit)[1][path])
        given = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(given[1]) if given and not self.hub.whole_only else 0
        stop = next(iter(self.hub.breaks.get(path, [])), None)
        if stop is not None:
            self.hub.breaks[path].pop(0)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        count = 0
        try:
            for start in range(begin, len(content) if stop is None else begin + stop, 1 << 16):
                block = content[start : min(start + (1 << 16), len(content) if stop is None else begin + stop)]
                self.wfile.write(block)
                count += len(block)
                time.sleep(self.hub.pace)
        except OSError:
            pass  # the other end was killed
        self.hub.sent.append(Sent(path, begin, count, self.headers.get("Authorization")))
        self.close_connection = stop is not None

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _entry(name: str, content: bytes) -> dict:
    entry = {"rfilename": name, "size": len(content)}
    entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if len(content) >= LARGE:
        entry["blobId"] = "0" * 40  # of the pointer, not of the content
        entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry
