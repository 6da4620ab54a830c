"""The event webhook gets its secret, soon but not in anybody's way, and nobody else's does."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from fake_engine import FakeEngine

from backend import app as app_module
from backend.app import close_app, create_app
from backend.auth import SECRET_HEADER
from backend.errors import BackendError
from backend.webhooks import WebhookKeeper

HERE = "http://backend:9090"


class Api:
    """Stands in for Label Studio's webhooks of project 5."""

    def __init__(self, *hooks: dict):
        self.hooks = [{"id": n, "url": f"{HERE}/webhook", "headers": {}} | hook for n, hook in enumerate(hooks)]
        self.asked: list[int] = []
        self.changed: list[int] = []
        self.failures: list[Exception] = []
        self.answer = threading.Event()
        self.answer.set()

    def webhooks(self, project: int) -> list[dict]:
        self.asked.append(project)
        self.answer.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        return self.hooks

    def change_webhook(self, webhook: int, changes: dict) -> None:
        self.changed.append(webhook)
        next(hook for hook in self.hooks if hook["id"] == webhook).update(changes)

    def brings(self, webhook: int = 0) -> str | None:
        return (self.hooks[webhook]["headers"] or {}).get(SECRET_HEADER)


@pytest.fixture
def keep():
    keepers = []

    def keep(api: Api, tries=(0.0, 0.01, 0.01), **options) -> WebhookKeeper:
        keepers.append(WebhookKeeper(lambda: api, "s3cret", tries=tries, **options))
        return keepers[-1]

    yield keep
    for keeper in keepers:
        keeper.close()


def wait_for(condition) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_the_hook_brings_the_secret_and_keeps_its_other_headers(keep):
    api = Api({"headers": {"Other": "x"}})
    keep(api).want("5", HERE)
    wait_for(lambda: api.brings() == "s3cret")
    assert api.hooks[0]["headers"] == {"Other": "x", SECRET_HEADER: "s3cret"}


def test_asked_again_it_does_nothing(keep):
    api = Api({})
    keeper = keep(api)
    for _ in range(20):
        keeper.want("5", HERE)
    wait_for(lambda: api.brings() == "s3cret")
    keep(api).want("5", HERE)  # another process: looks, and leaves it alone
    wait_for(lambda: len(api.asked) == 2)
    time.sleep(0.05)
    assert (api.asked, api.changed) == ([5, 5], [0])


@pytest.mark.parametrize(
    "url",
    [
        "http://elsewhere:9090/webhook",
        "http://backend:9091/webhook",
        "http://backend:9090/other/webhook",
        "http://backend:9090/webhook/more",
        "http://backend:9090@elsewhere/webhook",
        "http://[/webhook",
        None,
        5,
    ],
)
def test_nobody_elses_hook_gets_the_secret(keep, url):
    api = Api({"url": url})
    keep(api).want("5", HERE)
    wait_for(lambda: len(api.asked) == 3)
    time.sleep(0.05)
    assert api.changed == []


def test_a_hook_that_is_made_a_little_later(keep):
    api = Api()
    keep(api, tries=(0.0, 0.3, 3.0)).want("5", HERE)
    wait_for(lambda: api.asked)
    api.hooks.append({"id": 0, "url": f"{HERE}/webhook", "headers": None})
    wait_for(lambda: api.brings() == "s3cret")


def test_behind_a_proxy_the_public_address_counts(keep):
    api = Api({"url": "https://public.example.com/ml/webhook"})
    keep(api, addresses=("http://public.example.com/ml",)).want("5", "http://10.0.0.7:9090")
    wait_for(lambda: api.brings() == "s3cret")


def test_failures_are_tried_again_later_and_the_thread_lives_on(keep):
    now = [0.0]
    api = Api({})
    api.failures = [BackendError("Label Studio is away"), OSError("secret-text")]
    keeper = keep(api, clock=lambda: now[0])
    for count in (1, 2):
        keeper.want("5", HERE)
        wait_for(lambda count=count: len(api.asked) == count)
        time.sleep(0.05)
        keeper.want("5", HERE)  # too soon
        time.sleep(0.02)
        assert len(api.asked) == count
        now[0] += 61
    keeper.want("5", HERE)
    wait_for(lambda: api.brings() == "s3cret")


def test_wishes_are_bounded_and_never_wait(keep):
    api = Api({})
    api.answer.clear()
    keeper = keep(api)
    begun = time.monotonic()
    for project in range(5000):
        keeper.want(str(project), HERE)
    keeper.want("no number", HERE)
    assert time.monotonic() - begun < 5
    api.answer.set()


def test_setup_leaves_a_wish_and_does_not_wait(monkeypatch, settings, captured):
    api = Api({"url": "http://localhost/webhook"})
    api.answer.clear()
    monkeypatch.setattr(app_module, "LabelStudioApi", lambda _settings: api)
    changes = {"basic_auth_user": "me", "basic_auth_pass": "p", "label_studio_api_key": "k"}
    app = create_app(replace(settings, webhook_secret="s3cret", **changes), FakeEngine)
    app.extensions["x2sam"].engines.wait(5)
    begun = time.monotonic()
    assert app.test_client().post("/setup", json=captured("setup"), auth=("me", "p")).status_code == 200
    assert time.monotonic() - begun < 2
    api.answer.set()
    wait_for(lambda: api.brings() == "s3cret")
    close_app(app)
    wait_for(lambda: not any(thread.name == "webhooks" for thread in threading.enumerate()))


@pytest.mark.parametrize("missing", ["label_studio_api_key", "basic_auth_user"])
def test_without_a_key_or_without_credentials_nobody_is_asked(settings, missing):
    changes = {"basic_auth_user": "me", "basic_auth_pass": "p", "label_studio_api_key": "k", missing: ""}
    changes |= {"basic_auth_pass": ""} if missing == "basic_auth_user" else {}
    app = create_app(replace(settings, webhook_secret="s3cret", **changes), FakeEngine)
    assert app.extensions["x2sam-webhooks"] is None
    close_app(app)
