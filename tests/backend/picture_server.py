"""A web server on loopback that stands in for Label Studio's files: pictures, redirects, errors, token exchange."""

from __future__ import annotations

import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image


def picture_bytes(width: int = 640, height: int = 480, fmt: str = "PNG", **options) -> bytes:
    """A picture whose pixels are a colour ramp."""
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)
    ramp[..., 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, fmt, **options)
    return file.getvalue()


class PictureServer:
    """Serves ``files`` by their ``?d=`` name or path. ``seen`` has the path and headers of every request."""

    def __init__(self, port: int = 0):
        self.files = {
            "frames": picture_bytes(1280, 720, "JPEG"),
            "imgs": picture_bytes(640, 480),
        }
        self.redirects: dict[str, str] = {}
        self.token: str | None = None
        self.delay = 0.0
        self.drip = 0.0
        self.cut = False
        self.drip_headers = 0.0
        self.headers: dict[str, str] = {}
        self.exchanged = 0
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.most_at_once = self._waiting = 0
        self._count = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                owner._get(self)

            def do_POST(self):
                owner._post(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def content(self, path: str) -> bytes | None:
        """A file by ``?d=folder/name`` (any name in a folder is the folder's picture) or by its path."""
        name = parse_qs(urlsplit(path).query).get("d", [path])[0]
        return self.files.get(name, self.files.get(name.split("/")[0]))

    def _get(self, request) -> None:
        with self._count:
            self.seen.append((request.path, dict(request.headers)))
            self._waiting += 1
            self.most_at_once = max(self.most_at_once, self._waiting)
        time.sleep(self.delay)
        with self._count:
            self._waiting -= 1
        if self.drip_headers:
            self._drip_headers(request)
        elif request.path in self.redirects:
            self._answer(request, 302, b"", {"Location": self.redirects[request.path]})
        elif self.token is not None and request.headers.get("Authorization") != self.token:
            self._answer(request, 401, b"no")
        else:
            content = self.content(request.path)
            self._answer(request, 404 if content is None else 200, content or b"", self.headers)

    def _drip_headers(self, request) -> None:
        """Never comes to an end, but something arrives all the time."""
        try:
            request.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for number in range(10_000):
                request.wfile.write(f"X-{number}: a\r\n".encode() if number < 50 else b"a")
                request.wfile.flush()
                time.sleep(self.drip_headers)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _post(self, request) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        self.seen.append((request.path, dict(request.headers)))
        self.exchanged += 1
        access = f"access-{self.exchanged}"
        self.token = f"Bearer {access}"
        good = request.path == "/api/token/refresh/" and bool(body.get("refresh"))
        self._answer(request, 200 if good else 400, json.dumps({"access": access}).encode())

    def _answer(self, request, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        try:
            if self.drip:
                for byte in content:
                    request.wfile.write(bytes((byte,)))
                    request.wfile.flush()
                    time.sleep(self.drip)
            else:
                request.wfile.write(content[: len(content) // 2] if self.cut else content)
        except (BrokenPipeError, ConnectionResetError):
            pass
