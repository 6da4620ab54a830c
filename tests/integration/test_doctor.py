"""The doctor, at the bedside of a real Label Studio: every failure that it knows is caused, then it must name it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from label_studio_server import LabelStudioServer, free_port
from PIL import Image
from typer.testing import CliRunner
from werkzeug.serving import make_server
from workplace import NANO

from backend.app import close_services, create_app
from backend.cli import app
from backend.settings import Settings
from x2sam.errors import PromptError
from x2sam.structures import Mask

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "backend"))

from fake_engine import FakeEngine, FakeSession  # noqa: E402

CLICKS = (ROOT / "label_config" / "image_clicks.xml").read_text(encoding="utf-8")
TEXT = (ROOT / "label_config" / "image_text.xml").read_text(encoding="utf-8")
UPRIGHT = "/data/local-files/?d=made/upright.png"
LOGIN = {"basic_auth_user": "label-studio", "basic_auth_pass": "first-secret"}
QUIET = {"ok", "note"}


class Noise(FakeSession):
    """Every pixel its own matter."""

    def segment(self, prompt, frame=0, priority=None, replaces=None) -> list[Mask]:
        size = self.frames[frame].shape[:2]
        return [Mask(np.random.default_rng(0).random(size) > 0.5, 0.5)]


class NoisyEngine(FakeEngine):
    def open(self, frames, key=None) -> Noise:
        return Noise(self, frames, key)


class BrokenEngine(FakeEngine):
    def __init__(self):
        super().__init__()
        self.raises = PromptError("The stand-in refuses every prompt; ask another.")


class Ward:
    """Label Studio, backends in this process, and the doctor."""

    def __init__(self, label_studio: LabelStudioServer, folder: Path):
        self.label_studio, self.folder = label_studio, folder

    @contextmanager
    def backend(self, engine=FakeEngine, port: int = 0, **changes: Any) -> Iterator[str]:
        """A running ML backend; its address."""
        own = {"media_cache_dir": str(self.folder / f"cache{free_port()}"), "state_dir": str(self.folder / "state")}
        address = {"label_studio_url": self.label_studio.url, "label_studio_api_key": self.label_studio.token}
        settings = Settings(**(own | address | {"warm_tasks": 0} | changes))
        application = create_app(settings, engine)
        with serving(make_server("127.0.0.1", port, application, threaded=True)) as url:
            yield url
        close_services(application.extensions["x2sam"])

    def project(self, config: str = CLICKS, picture: str | None = UPRIGHT, **fields: Any) -> int:
        """A project with one task, or none."""
        number = self.label_studio.create_project("doctor", config, **fields)
        if picture is not None:
            self.label_studio.serve_folder(number, self.label_studio.files_root / "made")
            self.label_studio.import_tasks(number, [{"image": picture}])
        return number

    def attach(self, project: int, url: str, **fields: Any) -> int:
        """A further row in the project's settings."""
        body = {"project": project, "url": url, "title": "x2sam", "is_interactive": True, **fields}
        return self.label_studio.api("POST", "/api/ml", body)["id"]

    def examine(self, *words: object, server: LabelStudioServer | None = None, **environment: str) -> Report:
        """The doctor's report on a project, or on what the words say."""
        server = server or self.label_studio
        given = {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": server.token, **environment}
        others = {name: None for name in ("BASIC_AUTH_USER", "BASIC_AUTH_PASS", "X2SAM_MEDIA_HOSTS")}
        others["X2SAM_STATE_DIR"] = str(self.folder / "state")
        file = self.folder / "report.json"
        file.unlink(missing_ok=True)
        line = ["doctor", *map(str, words), "--json", str(file)]
        outcome = CliRunner().invoke(app, line, env=others | given)
        assert outcome.exit_code in (0, 1), (outcome.output, outcome.exception)
        content = file.read_text()
        kept = self.folder / "state" / "webhook-secret"
        hidden = kept.read_text().strip() if kept.is_file() else None
        passwords = environment.get("BASIC_AUTH_PASS"), LOGIN["basic_auth_pass"]
        for secret in filter(None, (given["LABEL_STUDIO_API_KEY"], hidden, *passwords)):
            assert secret not in outcome.output and secret not in content
        assert "Traceback" not in outcome.output
        return Report(json.loads(content), outcome)


class Report:
    def __init__(self, content: dict[str, Any], outcome: Any):
        self.checks = {check["name"]: check for check in content["checks"]}
        self.healthy, self.output, self.exit_code = content["healthy"], outcome.output, outcome.exit_code

    def mark(self, name: str) -> str:
        return self.checks[name]["mark"]

    def failed(self, name: str, *parts: str) -> None:
        """This check failed for this reason, with this mend, and the doctor's exit code says so."""
        told = f"{self.checks[name]['text']} | {self.checks[name]['mend']}"
        assert self.mark(name) == "failed", (self.checks[name], self.output)
        assert all(part in told for part in parts), told
        assert self.checks[name]["mend"] and self.exit_code == 1 and not self.healthy

    def failures(self) -> set[str]:
        return {name for name in self.checks if self.mark(name) == "failed"}


@contextmanager
def serving(server: Any) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def plain_server(status: int, headers: dict[str, str] | None = None, port: int = 0) -> Iterator[str]:
    """A server that gives the same answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", port), Handler)) as url:
        yield url


@pytest.fixture(scope="module")
def ward(label_studio, tmp_path_factory) -> Ward:
    return Ward(label_studio, tmp_path_factory.mktemp("ward"))


@pytest.fixture(scope="module")
def backend(ward) -> Iterator[str]:
    with ward.backend() as url:
        yield url


@pytest.fixture(scope="module")
def whole(ward, backend) -> int:
    """A project with nothing wrong; tests leave it as it is."""
    number = ward.project(TEXT)
    ward.attach(number, backend)
    return number


@pytest.fixture(scope="module")
def personal(personal_token) -> str:
    """A personal access token of the first user."""
    return personal_token


@contextmanager
def signed_in(server: LabelStudioServer) -> Iterator[requests.Session]:
    page = f"{server.url}/user/login/"
    with requests.Session() as browser:
        browser.get(page, timeout=60)
        form = {"email": server.username, "password": server.password}
        form["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
        browser.post(page, data=form, headers={"Referer": page}, timeout=60)
        browser.headers.update({"X-CSRFToken": browser.cookies["csrftoken"], "Referer": server.url})
        yield browser


def test_nothing_is_found_where_nothing_is_wrong(ward, whole):
    report = ward.examine("--project", whole)
    assert report.healthy and report.exit_code == 0, report.output
    # a slow machine is remarked
    marks = {name: check["mark"] for name, check in report.checks.items() if name != "predict"}
    assert set(marks.values()) == {"ok"} and report.mark("predict") in QUIET, report.output
    assert report.checks["model"]["text"] == "fake-0001 on cpu" and "1 mask in" in report.checks["predict"]["text"]
    assert "320 x 240" in report.checks["encode"]["text"]
    assert report.output.count("✓") >= len(marks)


def test_without_a_project_it_lists_them(ward, whole):
    report = ward.examine()
    assert report.exit_code == 0 and report.mark("token") == "ok"
    assert report.mark("project") == "skipped" and "'doctor'" in report.checks["project"]["text"]


def test_a_wrong_address(ward):
    report = ward.examine("--project", 1, LABEL_STUDIO_URL=f"http://127.0.0.1:{free_port()}")
    report.failed("url", "connection is refused", "LABEL_STUDIO_URL")
    assert report.failures() == {"url"} and report.mark("size") == "skipped"
    ward.examine(LABEL_STUDIO_URL="http://nobody.invalid").failed("url", "host name is unknown")


def test_an_address_of_something_else(ward, backend):
    ward.examine(LABEL_STUDIO_URL=backend).failed("url", "is an ML backend, not Label Studio")
    with plain_server(200) as url:
        ward.examine(LABEL_STUDIO_URL=url).failed("url", "is a server, not Label Studio")
    with plain_server(301, {"Location": "https://labels.example.com/ls/api/version/?a=1"}) as url:
        ward.examine(LABEL_STUDIO_URL=url).failed("url", "Set LABEL_STUDIO_URL to https://labels.example.com/ls.")


def test_tokens_that_are_not_accepted(ward, personal):
    ward.examine(LABEL_STUDIO_API_KEY="").failed("token", "is not set", "Personal Access Token")
    ward.examine(LABEL_STUDIO_API_KEY="e" * 40).failed("token", "does not accept the legacy token")
    forged = personal[:-6] + "AAAAAA"
    ward.examine(LABEL_STUDIO_API_KEY=forged).failed("token", "does not accept the personal token")
    answer = requests.post(f"{ward.label_studio.url}/api/token/refresh/", json={"refresh": personal}, timeout=60)
    ward.examine(LABEL_STUDIO_API_KEY=answer.json()["access"]).failed("token", "ends after five minutes")


def test_a_personal_token_goes_all_the_way(ward, whole, personal):
    report = ward.examine("--project", whole, LABEL_STUDIO_API_KEY=personal)
    assert report.healthy and "a personal token" in report.checks["token"]["text"], report.output


def test_legacy_tokens_that_are_switched_off(ward, whole, personal):
    with signed_in(ward.label_studio) as browser:
        switch = f"{ward.label_studio.url}/api/jwt/settings"
        browser.post(switch, json={"legacy_api_tokens_enabled": False}, timeout=60).raise_for_status()
        try:
            report = ward.examine("--project", whole)
        finally:
            browser.post(switch, json={"legacy_api_tokens_enabled": True}, timeout=60).raise_for_status()
    report.failed("token", "legacy tokens are switched off", "personal access token")


def test_a_project_that_is_not_there(ward, whole):
    ward.examine("--project", 999_999).failed("project", "sees no project 999999", f"{whole} 'doctor'")


ELLIPSES = CLICKS.replace("BrushLabels", "EllipseLabels").replace("RectangleLabels", "EllipseLabels")
CONFIGS = {
    "no mask tag": (ELLIPSES, ("no tag for masks on 'image'", "BrushLabels")),
    "smart brush": (
        CLICKS.replace('toName="image" smart="false"', 'toName="image" smart="true"'),
        ("'mask' has smart=\"true\"", 'smart="false"'),
    ),
    "no prompt": (CLICKS.replace('smart="true"', 'smart="false"'), ("no tag asks the backend",)),
    "other labels": (
        CLICKS.replace('"Object" background="#E4572E" showInline', '"Thing" background="#E4572E" showInline'),
        ("labels Thing of 'point'", "the same labels"),
    ),
    "no picture": (
        '<View><Text name="t" value="$image"/><Choices name="c" toName="t"><Choice value="a"/></Choices></View>',
        ("no Image tag",),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_labeling_configurations_that_do_not_work(ward, name):
    config, parts = CONFIGS[name]
    ward.examine("--project", ward.project(config, None)).failed("config", *parts)


def test_a_configuration_without_a_reply_field_is_remarked(ward):
    report = ward.examine("--project", ward.project(CLICKS, None))
    assert report.mark("config") == "note" and 'name="reply"' in report.checks["config"]["mend"]


def test_a_backend_that_is_not_attached(ward, backend):
    report = ward.examine("--project", ward.project())
    report.failed("attached", "no ML backend is attached", "Interactive preannotations")
    assert report.mark("address") == "ok" and report.mark("decode") == "ok" and report.mark("predict") == "skipped"
    number = ward.project()
    ward.attach(number, backend)
    report = ward.examine("--project", number, "--backend", "http://127.0.0.1:1")
    report.failed("attached", "http://127.0.0.1:1 is not attached", backend)


def test_a_backend_under_a_port_where_it_does_not_listen(ward):
    number = ward.project()
    with ward.backend() as url:
        ward.attach(number, url)
    report = ward.examine("--project", number)
    report.failed("connected", "'Disconnected'", f"nothing answers at {url} (the connection is refused)", "port")
    assert report.mark("attached") == "ok" and report.mark("predict") == "skipped"
    with plain_server(200, port=int(url.rpartition(":")[2])):
        ward.examine("--project", number).failed("connected", f"what answers at {url} is no ML backend")


def test_a_host_that_label_studio_does_not_know(ward):
    report = ward.examine("--project", ward.project(), "--backend", "http://nobody.invalid:9090")
    report.failed("address", "Label Studio can't find the host of http://nobody.invalid:9090", "Docker")


def test_two_interactive_backends(ward, backend):
    number = ward.project()
    with ward.backend() as other:
        ward.attach(number, backend, title="first one")
        ward.attach(number, other, title="second one")
        report = ward.examine("--project", number)
        report.failed("first", f"only 'first one' at {backend} is asked, never 'second one' at {other}")
        ward.examine("--project", number, "--backend", other).failed("first", "only 'first one'")
        assert ward.examine("--project", number, "--backend", backend + "/").mark("first") == "note"


def test_a_backend_that_is_not_interactive(ward, backend):
    number = ward.project()
    ward.attach(number, backend, is_interactive=False)
    report = ward.examine("--project", number)
    report.failed("first", "not interactive", "switch Interactive preannotations on")
    assert report.mark("predict") == "skipped"


def test_a_backend_that_is_attached_twice(ward, backend):
    number = ward.project()
    ward.attach(number, backend)
    again = ward.attach(number, backend)
    ward.examine("--project", number).failed("attached", "attached 2 times", f"/api/ml/<id> for {again}")


@pytest.fixture(scope="module")
def guarded(ward, whole, tmp_path_factory) -> Iterator[LabelStudioServer]:
    """A second Label Studio with the same content, which refuses private addresses, as it does by default."""
    first, folder = ward.label_studio, tmp_path_factory.mktemp("guarded")
    with (
        closing(sqlite3.connect(first.folder / "label_studio.sqlite3")) as source,
        closing(sqlite3.connect(folder / "label_studio.sqlite3")) as copy,
    ):
        source.backup(copy)
    shutil.copy(first.folder / ".env", folder / ".env")
    server = LabelStudioServer(
        first.python, folder, first.files_root, token=first.token, username=first.username, password=first.password,
        environment={"LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": None},
    )  # fmt: skip
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def test_label_studios_refusal_of_private_addresses(ward, guarded, whole, backend):
    report = ward.examine("--project", whole, server=guarded)
    report.failed("address", f"refuses {backend}", "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false")
    report.failed("connected", "Label Studio calls it 'Disconnected'")
    assert report.mark("decode") == "ok"
    before = guarded.api("GET", f"/api/ml?project={whole}")
    empty = guarded.create_project("doctor guarded", CLICKS)
    report = ward.examine("--project", empty, "--backend", backend, server=guarded)
    report.failed("address", f"refuses {backend}")
    report.failed("attached", "no ML backend is attached")
    assert guarded.api("GET", f"/api/ml?project={empty}") == []
    assert len(guarded.api("GET", f"/api/ml?project={whole}")) == len(before) == 1


def test_the_doctor_changes_nothing(ward, whole):
    def everything():
        api = ward.label_studio.api
        rows = [{**row, "updated_at": ""} for row in api("GET", f"/api/ml?project={whole}")]
        tasks = api("GET", f"/api/tasks?project={whole}&fields=all")["tasks"]
        stored = api("GET", f"/api/predictions/?project={whole}")
        return rows, tasks, stored, api("GET", f"/api/webhooks/?project={whole}")

    before = everything()
    assert ward.examine("--project", whole).healthy
    assert everything() == before


PICTURES = {
    "missing": ("/data/local-files/?d=made/missing.png", {}, "media", ("no such picture", "storage")),
    "no storage": ("/data/local-files/?d=clips/none.png", {}, "media", ("no such picture",)),
    "host": ("https://pictures.example.com/a.png", {}, "media", ("pictures.example.com", "X2SAM_MEDIA_HOSTS")),
    "private": ("http://localhost/a.png", {"X2SAM_MEDIA_HOSTS": "*"}, "media", ("private", "MEDIA_HOSTS")),
    "no picture": ("/data/local-files/?d=made/words.png", {}, "decode", ("not a picture", "JPEG or PNG")),
    "too large": (UPRIGHT, {"X2SAM_MAX_MEGAPIXELS": "0.01"}, "decode", ("320 x 240", "X2SAM_MAX_MEGAPIXELS")),
    "too heavy": (UPRIGHT, {"X2SAM_MEDIA_MAX_MB": "0.0001"}, "media", ("X2SAM_MEDIA_MAX_MB",)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_that_are_not_had(ward, files, name):
    picture, environment, check, parts = PICTURES[name]
    (files / "made" / "words.png").write_text("no pixels")
    report = ward.examine("--project", ward.project(picture=picture), **environment)
    report.failed(check, *parts)
    assert report.mark("predict") == "skipped"


def test_tasks_that_do_not_fit(ward, whole):
    report = ward.examine("--project", ward.project(picture=None))
    report.failed("task", "the project has no tasks", "Import some")
    number = ward.project(TEXT.replace("$image", "$photo"), None)
    ward.label_studio.import_tasks(number, [{"photo": UPRIGHT}])
    listed = ward.label_studio.api("GET", f"/api/tasks?project={number}")["tasks"][0]["id"]
    ward.label_studio.api("PATCH", f"/api/tasks/{listed}/", {"data": {"photo": ""}})
    ward.examine("--project", number).failed("task", f"task {listed}:", "$photo")
    ward.examine("--project", whole, "--task", listed).failed("task", f"is in project {number}")
    ward.examine("--project", whole, "--task", 999_999).failed("task", "there is no task 999999")


def test_credentials_that_differ(ward):
    number = ward.project()
    row = {"auth_method": "BASIC_AUTH", **LOGIN}
    ours = {"BASIC_AUTH_USER": LOGIN["basic_auth_user"], "BASIC_AUTH_PASS": "second-secret"}
    with ward.backend(**LOGIN) as url:
        ward.attach(number, url, **row)
        report = ward.examine("--project", number, **{**ours, "BASIC_AUTH_PASS": LOGIN["basic_auth_pass"]})
        assert report.mark("connected") == "ok" and report.mark("predict") in QUIET, report.output
    port = int(url.rpartition(":")[2])
    with ward.backend(port=port, **{**LOGIN, "basic_auth_pass": "second-secret"}):
        ward.examine("--project", number, **ours).failed("connected", "another password than BASIC_AUTH_PASS")
        ward.examine("--project", number).failed("connected", "other credentials", "environment of the ML backend")
    with ward.backend(port=port, basic_auth_user="somebody", basic_auth_pass="second-secret"):
        report = ward.examine("--project", number, **{**ours, "BASIC_AUTH_USER": "somebody"})
        report.failed("connected", "another user name than BASIC_AUTH_USER")


def test_credentials_that_label_studio_was_never_told(ward):
    number = ward.project()
    with ward.backend() as url:
        ward.attach(number, url)
    with ward.backend(port=int(url.rpartition(":")[2]), **LOGIN):
        environment = {name.upper(): value for name, value in LOGIN.items()}
        ward.examine("--project", number, **environment).failed("connected", "sends it no credentials")


def test_events_without_credentials_are_remarked_or_have_them(ward):
    number = ward.project()
    environment = {name.upper(): value for name, value in LOGIN.items()}
    # without a token of its own the backend can't write its secret into the webhook
    with ward.backend(**LOGIN, label_studio_api_key="") as url:
        ward.attach(number, url, auth_method="BASIC_AUTH", **LOGIN)
        report = ward.examine("--project", number, **environment)
        assert report.mark("webhook") == "note" and "X-Webhook-Secret" in report.checks["webhook"]["text"]
    with ward.backend(**LOGIN, port=int(url.rpartition(":")[2])):
        deadline = time.monotonic() + 60
        while ward.examine("--project", number, **environment).mark("webhook") != "ok":
            assert time.monotonic() < deadline


def test_events_that_are_not_sent(ward, backend):
    number = ward.project()
    ward.attach(number, backend)
    (hook,) = ward.label_studio.api("GET", f"/api/webhooks/?project={number}")
    ward.label_studio.api("PATCH", f"/api/webhooks/{hook['id']}/", {"is_active": False})
    ward.examine("--project", number).failed("webhook", "switched off", "Settings > Webhooks")
    ward.label_studio.api("DELETE", f"/api/webhooks/{hook['id']}/")
    ward.examine("--project", number).failed("webhook", "no webhook for it", "attach the backend again")


def test_a_version_that_label_studio_keeps(ward, backend):
    number = ward.project()
    row = ward.attach(number, backend, auto_update=False, model_version="of last year")
    ward.examine("--project", number).failed("version", "'of last year', the model is 'fake-0001'", f"/api/ml/{row}")


def test_what_opened_tasks_show_is_remarked(ward, backend):
    number = ward.project()
    ward.attach(number, backend)
    (task,) = ward.label_studio.api("GET", f"/api/tasks?project={number}")["tasks"]
    stored = {"task": task["id"], "result": [], "score": 0.5, "model_version": "elsewhere"}
    ward.label_studio.api("POST", "/api/predictions/", stored)
    ward.label_studio.api("PATCH", f"/api/projects/{number}/", {"model_version": "elsewhere"})
    report = ward.examine("--project", number)
    assert report.mark("prefill") == "note" and "'elsewhere'" in report.checks["prefill"]["text"]
    closed = {"show_collab_predictions": False, "evaluate_predictions_automatically": False}
    ward.label_studio.api("PATCH", f"/api/projects/{number}/", closed)
    report = ward.examine("--project", number)
    assert report.mark("prefill") == "note" and "no prediction" in report.checks["prefill"]["text"]
    assert report.exit_code == 0


def test_an_answer_that_is_too_large(ward, files):
    Image.new("RGB", (1600, 1200), (40, 90, 40)).save(files / "made" / "wide.png")
    number = ward.project(picture="/data/local-files/?d=made/wide.png")
    with ward.backend(NoisyEngine) as url:
        ward.attach(number, url)
        report = ward.examine("--project", number)
    report.failed("size", "the answer to one prompt has", "BitmaskLabels")
    assert report.mark("encode") == "ok"


def test_a_backend_that_does_not_answer_prompts(ward):
    sentence = "The stand-in refuses every prompt"
    silent, told = ward.project(CLICKS), ward.project(TEXT)
    with ward.backend(BrokenEngine) as url:
        ward.attach(silent, url)
        ward.attach(told, url)
        ward.examine("--project", silent).failed("predict", "the backend answered 422", sentence)
        ward.examine("--project", told).failed("predict", "a click in the middle gave no mask", sentence)


def test_a_model_that_can_not_be_loaded(ward):
    number = ward.project()

    def refuse():
        raise PromptError("There is no such model; name another.")

    with ward.backend() as url:
        ward.attach(number, url)
    with ward.backend(refuse, port=int(url.rpartition(":")[2])):
        ward.examine("--project", number).failed("connected", "answers /setup with", "There is no such model")


@pytest.mark.skipif(not NANO.is_file(), reason="x2sam/checkpoints/nano is not there")
def test_a_model_of_its_own(ward):
    report = ward.examine("--project", ward.project(), "--model", "nano")
    assert report.failures() == {"attached"}
    assert "nano" in report.checks["model"]["text"]
    assert report.mark("predict") in QUIET and report.mark("encode") == "ok" and report.mark("size") == "ok"


def test_a_model_that_is_not_there(ward):
    report = ward.examine("--project", ward.project(), "--model", "no-such-model")
    report.failed("model", "no-such-model", "python -m x2sam download")
    assert report.mark("predict") == "skipped"


def test_settings_that_can_not_be_read(ward):
    outcome = CliRunner().invoke(app, ["doctor"], env={"X2SAM_THREADS": "many"})
    assert outcome.exit_code == 1 and "X2SAM_THREADS" in outcome.output
