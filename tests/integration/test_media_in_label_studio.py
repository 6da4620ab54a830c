"""Every kind of address that a real Label Studio puts into tasks, fetched by our fetcher and answered with a mask."""

from __future__ import annotations

import base64
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import numpy as np
import pytest
import requests
from label_studio_sdk.converter import brush
from label_studio_server import ChildServer, click, free_port

from backend.cloud_storage import through_label_studio
from backend.errors import MediaError, MediaRefusedError
from backend.file_cache import FileCache
from backend.media import MediaFetcher
from backend.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
CONFIG = (ROOT / "label_config" / "image_clicks.xml").read_text(encoding="utf-8")
BUCKET = "pictures"
KEY = "2026/фото 1.png"
DISC = (31.25, 50.0)  # percent: the middle of the disc in the generated picture
SIZE = (240, 320)


class Standing:
    """A server of this machine. ``seen``: path and headers of each request."""

    def __init__(self):
        self.seen: list[tuple[str, dict[str, str]]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self):
                owner.seen.append((self.path, dict(self.headers)))
                length = int(self.headers.get("Content-Length") or 0)
                status, headers, content = owner.respond(self.command, self.path, self.headers, self.rfile.read(length))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def respond(self, method, path, headers, body) -> tuple[int, dict[str, str], bytes]:
        raise NotImplementedError

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Bucket(Standing):
    """As much of S3 as Label Studio and a signed address need: is the bucket there, and its objects."""

    def __init__(self, content: bytes):
        super().__init__()
        self.content = content

    def respond(self, method, path, headers, body):
        parts = urlsplit(path)
        name = unquote(parts.path)
        if name.rstrip("/") == f"/{BUCKET}":
            return 200, {"x-amz-bucket-region": "us-east-1"}, b""
        signed = "X-Amz-Signature" in parse_qs(parts.query) or "AWS4-HMAC" in headers.get("Authorization", "")
        if not signed:
            return 403, {}, b""
        if name != f"/{BUCKET}/{KEY}":
            return 404, {}, b""
        return 200, {"Content-Type": "image/png", "ETag": '"one"'}, self.content


class BelowAPath(Standing):
    """A reverse proxy that shows a server below ``/ls/``, and nothing else."""

    def __init__(self, target: str):
        super().__init__()
        self.target = target

    def respond(self, method, path, headers, body):
        if not path.startswith("/ls/"):
            return 404, {}, b"another application"
        passed = {name: value for name, value in headers.items() if name.lower() not in ("host", "content-length")}
        answer = requests.request(
            method, self.target + path[3:], headers=passed, data=body or None, allow_redirects=False, timeout=30
        )
        kept = {name: answer.headers[name] for name in ("Location", "Content-Type") if name in answer.headers}
        return answer.status_code, kept, answer.content


@pytest.fixture(scope="module")
def picture(files) -> bytes:
    return (files / "made" / "upright.png").read_bytes()


@pytest.fixture(scope="module")
def bucket(picture) -> Iterator[Bucket]:
    server = Bucket(picture)
    yield server
    server.close()


@pytest.fixture(scope="module")
def below_a_path(label_studio) -> Iterator[BelowAPath]:
    server = BelowAPath(label_studio.url)
    yield server
    server.close()


@dataclass
class Project:
    """A project whose tasks hold the same picture under every kind of address."""

    id: int
    tasks: dict[str, int] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def project(label_studio, files, bucket, picture) -> Project:
    server = label_studio
    made = Project(server.create_project("media", CONFIG))
    server.serve_folder(made.id, files / "made")
    second = server.create_project("media through Label Studio", CONFIG)
    for number, presign in ((made.id, True), (second, False)):
        storage = {"project": number, "bucket": BUCKET, "s3_endpoint": f"http://{bucket.host}", "presign": presign}
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        server.api("POST", "/api/storages/s3", storage | keys | {"use_blob_urls": True})
    inline = "data:image/png;base64," + base64.b64encode(picture).decode()
    given = {
        "local": "/data/local-files/?d=made/upright.png",
        "bucket": f"s3://{BUCKET}/{KEY}",
        "inline": inline,
        "no bucket": "s3://nobody/x.png",
    }
    ids = server.import_tasks(made.id, [{"image": address} for address in given.values()])
    made.tasks = dict(zip(given, ids, strict=True))
    upload = {"file": ("мое фото #1 100%.png", picture, "image/png")}
    report = server.api("POST", f"/api/projects/{made.id}/import?return_task_ids=1", files=upload)
    made.tasks["upload"] = report["task_ids"][0]
    (made.tasks["sent by Label Studio"],) = server.import_tasks(second, [{"image": given["bucket"]}])
    for name, task in made.tasks.items():
        made.addresses[name] = server.api("GET", f"/api/tasks/{task}?resolve_uri=false")["data"]["image"]
    return made


@pytest.fixture
def fetcher_for(label_studio, tmp_path):
    def make(**changes) -> MediaFetcher:
        given = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.token, **changes}
        return MediaFetcher(Settings(**given), FileCache(tmp_path / "cache", 10**8, 3600))

    return make


def address_of(project: Project, name: str) -> str:
    return through_label_studio(project.addresses[name], str(project.tasks[name]))


@pytest.mark.parametrize("token", ["legacy", "personal"])
@pytest.mark.parametrize("name", ["upload", "local", "bucket", "sent by Label Studio"])
def test_every_address_with_both_kinds_of_tokens(
    project, name, token, fetcher_for, personal_token, label_studio, bucket, picture
):
    key = personal_token if token == "personal" else label_studio.token
    bucket.seen.clear()
    fetcher = fetcher_for(label_studio_api_key=key, media_hosts=(bucket.host,) if name == "bucket" else ())
    assert fetcher.read(address_of(project, name)) == picture
    assert len(bucket.seen) == (name in ("bucket", "sent by Label Studio"))
    for path, headers in bucket.seen if name == "bucket" else ():
        assert "X-Amz-Signature" in path
        assert "Authorization" not in headers
    with pytest.raises(MediaError, match="LABEL_STUDIO_API_KEY"):
        fetcher_for(label_studio_api_key="", media_hosts=(bucket.host,)).read(address_of(project, name) + "&x=1")


def test_a_bucket_must_be_named(project, fetcher_for, bucket):
    bucket.seen.clear()
    with pytest.raises(MediaRefusedError, match=f"{bucket.host}.*X2SAM_MEDIA_HOSTS"):
        fetcher_for().read(address_of(project, "bucket"))
    assert bucket.seen == []


def test_a_bucket_that_no_storage_covers(project, fetcher_for):
    with pytest.raises(MediaError, match="check that a storage covers"):
        fetcher_for().read(address_of(project, "no bucket"))


def test_what_the_editor_is_given_can_be_fetched_too(project, fetcher_for, label_studio, bucket, picture):
    """Label Studio writes other addresses into what it exports: full ones, and its own for files in buckets."""
    fetcher = fetcher_for(media_hosts=(bucket.host,))
    for name in ("upload", "local", "bucket", "inline"):
        shown = label_studio.api("GET", f"/api/tasks/{project.tasks[name]}?resolve_uri=true")["data"]["image"]
        assert fetcher.read(shown) == picture
        if shown.startswith("/"):
            assert fetcher.read(label_studio.url + shown) == picture


def test_label_studio_below_a_path(project, fetcher_for, below_a_path, personal_token, bucket, picture):
    url = f"http://{below_a_path.host}/ls"
    fetcher = fetcher_for(label_studio_url=url, label_studio_api_key=personal_token, media_hosts=(bucket.host,))
    for name in ("upload", "local", "bucket"):
        assert fetcher.read(address_of(project, name)) == picture
        assert fetcher.read(address_of(project, name).replace("/", "/ls/", 1)) == picture
    assert {path.split("/")[1] for path, _ in below_a_path.seen} == {"ls"}
    assert "/ls/api/token/refresh/" in [path for path, _ in below_a_path.seen]


def test_directories_of_this_machine(project, fetcher_for, files, picture):
    fetcher = fetcher_for(label_studio_url="http://127.0.0.1:9", media_dirs=(str(files),))
    assert fetcher.read(address_of(project, "local")) == picture


@pytest.fixture(scope="module")
def attached(tmp_path_factory, label_studio, project, bucket, personal_token) -> Iterator[int]:
    """Id of a backend of the project, a process of its own with the stand-in engine and a personal token."""
    port, folder = free_port(), tmp_path_factory.mktemp("media-backend")
    environment = os.environ | {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": personal_token,
        "X2SAM_CACHE_DIR": str(folder / "cache"),
        "X2SAM_STATE_DIR": str(folder / "state"),
        "X2SAM_MEDIA_HOSTS": bucket.host,
    }
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(Path(__file__).with_name("fake_backend.py")), str(port)]
    server = ChildServer("the ML backend", command, folder / "backend.log", f"{url}/ready", environment, ROOT)
    try:
        server.wait_ready(60)
        yield label_studio.attach_backend(project.id, url)
    finally:
        server.stop()


@pytest.mark.parametrize("name", ["upload", "local", "bucket", "inline"])
def test_a_click_in_label_studio(label_studio, attached, project, name):
    answer = label_studio.ask(attached, project.tasks[name], click(*DISC, SIZE, "a"))
    (item,) = (item for item in answer["result"] if item["type"] == "brushlabels")
    mask = brush.decode_rle(item["value"]["rle"]).reshape(*SIZE, 4)[..., 3] > 127
    assert mask[int(DISC[1] / 100 * SIZE[0]), int(DISC[0] / 100 * SIZE[1])]
    assert 0.01 < np.mean(mask) < 0.5


def test_names_of_files_in_label_studio(label_studio, project, fetcher_for, files, picture):
    name = "имя файла 画像 #1 100%.png"
    (files / "made" / name).write_bytes(picture)
    address = f"/data/local-files/?d=made/{quote(name)}"
    assert fetcher_for().read(address) == picture
