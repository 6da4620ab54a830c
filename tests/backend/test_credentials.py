"""Who may ask what: basic authentication, the webhook's own secret, and no open server by accident."""

from __future__ import annotations

import base64
import stat
from dataclasses import replace

import pytest
from fake_engine import FakeEngine

from backend.app import close_services, create_app
from backend.auth import SECRET_HEADER, kept_secret
from backend.errors import SettingsError
from backend.settings import Settings, is_loopback

CLICK = "predict_interactive_keypoint_positive"
SECRET = "a-secret-of-its-own"


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


GOOD = basic("me", "pass:wörd")
BAD = (
    {},
    basic("me", "wrong"),
    basic("you", "pass:wörd"),
    basic("", ""),
    {"Authorization": "Bearer x"},
    {"Authorization": "Basic ???"},
    {"Authorization": "Basic"},
)


@pytest.fixture
def make(settings):
    apps = []

    def make(**changes):
        apps.append(create_app(replace(settings, **changes), FakeEngine))
        apps[-1].extensions["x2sam"].engines.wait(5)
        return apps[-1].test_client()

    yield make
    for app in apps:
        close_services(app.extensions["x2sam"])


@pytest.fixture
def guarded(make):
    return make(basic_auth_user="me", basic_auth_pass="pass:wörd", webhook_secret=SECRET)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/setup", "setup"),
        ("POST", "/predict", CLICK),
        ("GET", "/versions", None),
        ("GET", "/metrics", None),
        ("GET", "/ready", None),
    ],
)
def test_everything_asks_for_credentials(guarded, captured, method, path, body):
    body = body and captured(body)
    for bad in BAD:
        answer = guarded.open(path, method=method, json=body, headers=bad)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
        assert "credentials" in answer.json["error"]
    assert guarded.open(path, method=method, json=body, headers=GOOD).status_code == 200


def test_paths_that_are_not_there_tell_nothing_either(guarded):
    assert guarded.get("/nowhere").status_code == guarded.get("/predict").status_code == 401


def test_health_is_open_and_tells_no_secret(guarded):
    answer = guarded.get("/health")
    assert answer.status_code == 200
    assert SECRET not in answer.text and "pass" not in answer.text


def test_webhooks_bring_their_own_secret(guarded, captured):
    body = captured("webhook_annotation_created")
    for bad in (*BAD, {SECRET_HEADER: "wrong"}, {SECRET_HEADER: ""}, {SECRET_HEADER: SECRET + "x"}):
        answer = guarded.post("/webhook", json=body, headers=bad)
        assert answer.status_code == 401
        assert SECRET_HEADER in answer.json["error"]
    assert guarded.post("/webhook", json=body, headers={SECRET_HEADER: SECRET}).status_code == 201
    start = captured("webhook_start_training")
    assert guarded.post("/webhook", json=start, headers=GOOD).status_code == 201  # the button brings credentials


def test_the_webhooks_secret_opens_nothing_else(guarded, captured):
    assert guarded.post("/predict", json=captured(CLICK), headers={SECRET_HEADER: SECRET}).status_code == 401


def test_a_webhook_secret_without_credentials(make, captured):
    client = make(webhook_secret=SECRET)
    body = captured("webhook_annotation_created")
    assert client.post("/webhook", json=body).status_code == 401
    assert client.post("/webhook", json=body, headers=basic("", "")).status_code == 401
    assert client.post("/webhook", json=body, headers={SECRET_HEADER: SECRET}).status_code == 201
    assert client.post("/setup", json=captured("setup")).status_code == 200


def test_without_credentials_everything_is_open(make, captured):
    client = make()
    assert client.post("/webhook", json=captured("webhook_annotation_created")).status_code == 201
    assert client.get("/ready").status_code == 200


def test_the_secret_is_made_once_and_only_for_us(make, captured, settings, tmp_path):
    changes = {"basic_auth_user": "me", "basic_auth_pass": "p"}
    first = make(**changes).application.extensions["x2sam-gate"].webhook_secret
    again = make(**changes).application.extensions["x2sam-gate"].webhook_secret
    assert first == again and len(first) > 30
    assert stat.S_IMODE((tmp_path / "state" / "webhook-secret").stat().st_mode) == 0o600
    assert kept_secret(tmp_path / "other") != first


def test_a_damaged_secret_is_told(tmp_path):
    (tmp_path / "webhook-secret").write_text("")
    with pytest.raises(SettingsError, match="webhook-secret"):
        kept_secret(tmp_path)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_this_machine_needs_no_credentials(host):
    assert is_loopback(host)
    Settings().check_exposure(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.3", "192.168.1.2", "backend", "", None])
def test_others_come_in_with_credentials_only(host):
    with pytest.raises(SettingsError, match=r"BASIC_AUTH_USER.*X2SAM_ALLOW_OPEN=1"):
        Settings().check_exposure(host)
    Settings(basic_auth_user="me", basic_auth_pass="p").check_exposure(host)
    Settings(allow_open=True).check_exposure(host)


def test_secrets_are_not_in_what_is_printed_of_settings():
    printed = repr(
        Settings(basic_auth_user="me", basic_auth_pass="hid1", label_studio_api_key="hid2", webhook_secret="hid3")
    )
    assert "hid" not in printed
