"""A backend that asks for credentials, with a real Label Studio: attached, predicting, and hearing of annotations."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import requests
from label_studio_server import ChildServer, ServerError, click, free_port

ROOT = Path(__file__).resolve().parents[2]
CREDENTIALS = {"BASIC_AUTH_USER": "studio", "BASIC_AUTH_PASS": "pass:word"}
ATTACHED = {"auth_method": "BASIC_AUTH", "basic_auth_user": "studio", "basic_auth_pass": "pass:word"}
SECRET_HEADER = "X-Webhook-Secret"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, label_studio):
    """The address of a backend with the stand-in engine that asks for credentials."""
    port, folder = free_port(), tmp_path_factory.mktemp("backend-guarded")
    url = f"http://127.0.0.1:{port}"
    own = {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "X2SAM_CACHE_DIR": str(folder / "cache"),
        "X2SAM_STATE_DIR": str(folder / "state"),
    }
    command = [sys.executable, str(ROOT / "tests" / "integration" / "fake_backend.py"), str(port)]
    server = ChildServer(
        "the ML backend", command, folder / "log", f"{url}/health", os.environ | CREDENTIALS | own, ROOT
    )
    try:
        server.wait_ready(120)
        yield url
    finally:
        server.stop()


def new_project(label_studio, title: str) -> int:
    config = (ROOT / "label_config" / "image_clicks.xml").read_text(encoding="utf-8")
    project = label_studio.create_project(title, config)
    for folder in sorted(path for path in label_studio.files_root.iterdir() if path.is_dir()):
        label_studio.serve_folder(project, folder)
    return project


def test_clicks_and_events_with_credentials(guarded, label_studio):
    project = new_project(label_studio, "guarded backend")
    backend = label_studio.attach_backend(project, guarded, **ATTACHED)
    task = label_studio.import_tasks(project, [{"image": "/data/local-files/?d=made/upright.png"}])[0]
    answer = label_studio.ask(backend, task, click(30, 50, (240, 320), "p1"))
    assert answer["result"]

    def secrets() -> list:
        hooks = label_studio.api("GET", f"/api/webhooks/?project={project}")
        return [(hook["headers"] or {}).get(SECRET_HEADER) for hook in hooks if hook["url"] == f"{guarded}/webhook"]

    until = time.monotonic() + 60
    while not (secrets() and all(secrets())):
        assert time.monotonic() < until, "the webhook has no secret"
        time.sleep(0.5)
    label_studio.api("POST", f"/api/tasks/{task}/annotations/", {"result": []})
    wanted = 'x2sam_webhook_events_total{action="ANNOTATION_CREATED"} 1.0'
    while wanted not in numbers(guarded):
        assert time.monotonic() < until, "the event did not arrive"
        time.sleep(0.5)


def test_wrong_credentials_are_told_when_it_is_attached(guarded, label_studio):
    project = new_project(label_studio, "wrong credentials")
    with pytest.raises(ServerError, match="400"):
        label_studio.attach_backend(project, guarded, **(ATTACHED | {"basic_auth_pass": "wrong"}))


def numbers(url: str) -> str:
    return requests.get(f"{url}/metrics", auth=("studio", "pass:word"), timeout=30).text
