"""Everything but /predict: health, setup, webhooks, waiting for the model, credentials, numbers."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from fake_engine import FakeEngine

from backend.app import close_services, create_app
from x2sam.errors import WeightsError

CLICK = "predict_interactive_keypoint_positive"
WEBHOOKS = (
    "webhook_annotation_created",
    "webhook_annotation_updated",
    "webhook_annotations_deleted",
    "webhook_project_updated",
    "webhook_start_training",
    "webhook_tasks_created",
    "webhook_tasks_deleted",
)


@pytest.fixture
def slow(settings):
    """An app whose model is loaded when ``slow.loaded`` is set."""

    class Slow:
        loaded = threading.Event()
        engine = FakeEngine()

        def provide(self):
            assert self.loaded.wait(20)
            return self.engine

    slow = Slow()
    slow.loaded = threading.Event()
    slow.app = create_app(settings, slow.provide)
    slow.client = slow.app.test_client()
    yield slow
    slow.loaded.set()


def test_health_and_readiness(client):
    health = client.get("/health")
    assert health.status_code == 200
    assert health.json == {
        "status": "UP",
        "model_class": "X2SAMModel",
        "state": "ready",
        "model": "fake",
        "version": "fake-0001",
        "device": "cpu",
    }
    assert client.get("/ready").status_code == 200


def test_setup_and_versions(client, captured):
    assert client.post("/setup", json=captured("setup")).json == {"model_version": "fake-0001"}
    assert client.get("/versions").json == {"versions": ["fake-0001"]}


@pytest.mark.parametrize("name", WEBHOOKS)
def test_webhooks_are_acknowledged(client, captured, engine, name):
    answer = client.post("/webhook", json=captured(name))
    assert answer.status_code == 201
    assert answer.json == {"status": "ok", "result": {"event": captured(name)["action"]}}
    assert engine.asked == []


@pytest.mark.parametrize("body", [{}, {"action": 5}, [], {"action": "X", "project": []}])
def test_malformed_webhooks(client, body):
    answer = client.post("/webhook", json=body)
    assert answer.status_code == 400
    assert answer.json["error"]


def test_while_the_model_loads(slow, captured):
    start = time.monotonic()
    assert slow.client.get("/health").json["state"] == "loading"
    assert slow.client.get("/ready").status_code == 503
    assert time.monotonic() - start < 0.5
    assert slow.client.post("/setup", json=captured("setup")).json == {"model_version": "auto"}
    assert time.monotonic() - start < 3
    answers = []
    thread = threading.Thread(target=lambda: answers.append(slow.client.post("/predict", json=captured(CLICK))))
    thread.start()
    time.sleep(0.2)
    assert not answers
    slow.loaded.set()
    thread.join(10)
    assert answers[0].status_code == 200
    assert answers[0].json["results"][0]["result"]
    assert slow.client.get("/ready").status_code == 200


def test_few_wait_in_setup_at_once(slow, captured):
    """Label Studio sends one with nearly every page that is opened, and ``/health`` needs a thread, too."""
    def ask():
        slow.app.test_client().post("/setup", json=captured("setup"))

    waiting = [threading.Thread(target=ask) for _ in range(2)]
    for thread in waiting:
        thread.start()
    time.sleep(0.3)
    start = time.monotonic()
    assert slow.client.post("/setup", json=captured("setup")).json == {"model_version": "auto"}
    assert time.monotonic() - start < 1
    assert all(thread.is_alive() for thread in waiting)
    slow.loaded.set()
    for thread in waiting:
        thread.join(5)
    assert slow.client.post("/setup", json=captured("setup")).json == {"model_version": "fake-0001"}


def test_a_model_that_takes_too_long(settings, captured):
    stop = threading.Event()
    app = create_app(replace(settings, load_wait=0.1), lambda: stop.wait(20) and FakeEngine())
    answer = app.test_client().post("/predict", json=captured(CLICK))
    stop.set()
    assert answer.status_code == 503
    assert "still loading" in answer.json["error"]


@pytest.mark.parametrize(
    ("error", "text"), [(WeightsError("layer1 is missing"), "layer1 is missing"), (OSError("disk"), "OSError")]
)
def test_a_model_that_cannot_be_loaded(settings, captured, error, text):
    def fail():
        raise error

    client = create_app(settings, fail).test_client()
    answer = client.post("/predict", json=captured(CLICK))
    assert answer.status_code == 503
    assert text in answer.json["error"]
    assert client.post("/setup", json=captured("setup")).status_code == 503
    assert client.get("/health").json["state"] == "failed"
    assert client.get("/ready").status_code == 503
    told = client.post("/predict", json=captured("predict_interactive_text")).json["results"][0]["result"]
    assert text in told[0]["value"]["text"][0]


def test_health_answers_while_the_device_works(app, client, captured, engine):
    busy, go = threading.Event(), threading.Event()

    original = engine.open

    def open_slowly(frames, key=None):
        busy.set()
        go.wait(10)
        return original(frames, key)

    engine.open = open_slowly
    thread = threading.Thread(target=lambda: app.test_client().post("/predict", json=captured(CLICK)))
    thread.start()
    assert busy.wait(5)
    times = []
    for _ in range(10):
        start = time.monotonic()
        assert client.get("/health").status_code == 200
        times.append(time.monotonic() - start)
        assert client.post("/setup", json=captured("setup")).status_code == 200
    assert min(times) < 0.05
    go.set()
    thread.join(10)


def test_numbers(client, captured):
    client.post("/predict", json=captured(CLICK))
    client.post("/predict", json={})
    client.post("/webhook", json={"action": "made up"})
    client.get("/nowhere")
    text = client.get("/metrics").text
    for line in (
        'x2sam_http_requests_total{endpoint="predict",status="200"} 1.0',
        'x2sam_http_requests_total{endpoint="predict",status="400"} 1.0',
        'x2sam_http_requests_total{endpoint="unknown",status="404"} 1.0',
        'x2sam_predict_seconds_count{kind="click"} 1.0',
        'x2sam_masks_total{kind="click"} 1.0',
        'x2sam_webhook_events_total{action="other"} 1.0',
        "x2sam_model_ready 1.0",
        "x2sam_sessions 1.0",
    ):
        assert line in text
    assert "x2sam_media_cache_bytes 0.0" not in text


def test_other_paths_methods_and_sizes_are_json_errors(client, settings):
    assert client.get("/nowhere").json["error"].startswith("Not Found")
    assert client.get("/predict").status_code == 405
    small = create_app(replace(settings, max_request_bytes=100), FakeEngine).test_client()
    answer = small.post("/predict", json={"tasks": ["x" * 200]})
    assert answer.status_code == 413
    assert answer.json["error"]


def test_closing(app, client, captured, engine):
    client.post("/predict", json=captured(CLICK))
    close_services(app.extensions["x2sam"])
    assert engine.closed
    assert all(session.closed for session in engine.sessions)


def test_many_clicks_at_once(app, captured, engine):
    bodies = [captured(CLICK) for _ in range(24)]
    for number, body in enumerate(bodies):
        body["tasks"][0] |= {"id": number, "data": {"image": f"/data/local-files/?d=imgs/{number % 6}.png"}}
    statuses = []

    def send(body):
        statuses.append(app.test_client().post("/predict", json=body).status_code)

    threads = [threading.Thread(target=send, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 24
    assert len(engine.asked) == 24
