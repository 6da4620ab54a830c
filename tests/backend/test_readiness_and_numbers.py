"""/ready tells what stands in the way; /metrics what happens; the log what happened, without anybody's words."""

from __future__ import annotations

import json
import logging
import re

import pytest

from backend import logs
from backend.admission import ASIDE_BYTES
from backend.readiness import DiskCheck
from x2sam.errors import BusyError, CancelledError
from x2sam.vitals import EngineVitals, QueueVitals

CLICK = "predict_interactive_keypoint_positive"


def test_ready_when_all_works(client):
    answer = client.get("/ready")
    assert (answer.status_code, answer.json) == (200, {"state": "ready", "problems": [], "warnings": []})


def test_a_stuck_device_is_not_ready_but_alive(client, engine):
    engine.vitals = EngineVitals(running=500.0, responsive=False)
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert "device" in answer.json["problems"][0]
    assert client.get("/health").status_code == 200
    engine.vitals = EngineVitals(responsive=False, lost=True)
    assert client.get("/ready").json["problems"] == ["The device failed; the server starts itself again."]
    engine.vitals = EngineVitals()
    assert client.get("/ready").status_code == 200


def test_a_stopping_server_is_not_ready(app, client, captured):
    app.extensions["x2sam"].admission.stop()
    assert client.get("/ready").json["problems"] == ["The server is being stopped."]
    answer = client.post("/predict", json=captured(CLICK))
    assert answer.status_code == 503
    assert "being stopped" in answer.json["error"]
    assert client.post("/webhook", json=captured("webhook_annotation_created")).status_code == 201
    assert client.get("/health").status_code == 200


def test_a_disk_that_takes_no_files(tmp_path):
    now = [0.0]
    folder = tmp_path / "there"
    check = DiskCheck(folder, clock=lambda: now[0])
    assert "X2SAM_CACHE_DIR" in check.problem()
    folder.mkdir()
    assert check.problem()  # looked at a moment ago
    now[0] = 6.0
    assert check.problem() == ""
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_not_ready(app, client, tmp_path):
    app.extensions["x2sam-disk"] = DiskCheck(tmp_path / "nowhere")
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert "free some space" in answer.json["problems"][0]


def test_stages_by_kind_of_prompt(client, captured):
    client.post("/predict", json=captured(CLICK))
    text = client.get("/metrics").text
    for stage in ("fetch", "decode", "segment", "shape"):
        assert f'x2sam_stage_seconds_count{{kind="click",stage="{stage}"}} 1.0' in text


def test_the_queue_and_the_device(client, engine):
    queues = {"click": QueueVitals(3, 1.5), "batch": QueueVitals(2, 9.0)}
    engine.vitals = EngineVitals(queues, 0.25, True, 4, {"allocated": 12345}, compiled={"encoder": 1.5})
    text = client.get("/metrics").text
    for line in (
        'x2sam_queue_length{class="click"} 3.0',
        'x2sam_queue_age_seconds{class="batch"} 9.0',
        'x2sam_device_memory_bytes{kind="allocated"} 12345.0',
        'x2sam_compiled_gain{part="encoder"} 1.5',
        "x2sam_device_step_seconds 0.25",
        "x2sam_device_responsive 1.0",
        "x2sam_device_restarts_total 4.0",
        "x2sam_requests_running 0.0",
        "x2sam_feature_hits_total",
        "process_resident_memory_bytes",
    ):
        assert line in text


def test_errors_by_kind(client, engine, captured):
    engine.raises = BusyError("3 requests wait already")
    client.post("/predict", json=captured(CLICK))
    client.post("/predict", data="{", content_type="application/json")
    client.get("/nowhere")
    text = client.get("/metrics").text
    assert 'x2sam_predict_errors_total{error="BusyError"} 1.0' in text
    assert 'x2sam_http_errors_total{error="BadRequestError"} 1.0' in text
    assert 'x2sam_http_errors_total{error="NotFound"} 1.0' in text


def test_too_much_at_once_is_refused_with_a_sentence(app, client, captured):
    admission = app.extensions["x2sam"].admission
    with admission.work(None):
        answer = client.post("/predict", json=captured(CLICK))
        assert answer.status_code == 503
        assert "too many" in answer.json["error"]
    assert client.post("/predict", json=captured(CLICK)).status_code == 200


WITH_REPLY = "predict_interactive_text"


def refused(client, body, words):
    """Whether it was refused by status; else the reply field says the same."""
    answer = client.post("/predict", json=body)
    if answer.status_code == 503:
        assert words in answer.json["error"]
        return True
    ((item,),) = (entry["result"] for entry in answer.json["results"])
    assert (answer.status_code, item["from_name"]) == (200, "reply")
    assert words in item["value"]["text"][0]
    return False


def test_who_waits_at_a_screen_reads_that_it_is_busy_or_stops(app, client, captured, engine):
    """Label Studio shows its annotators no status."""
    admission = app.extensions["x2sam"].admission
    typed, opened, empty, long = (captured(WITH_REPLY) for _ in range(4))
    opened["params"]["context"] = None
    empty["params"]["context"] = {"result": []}
    long["tasks"][0]["data"]["note"] = "x" * ASIDE_BYTES
    with admission.work(None):
        assert not refused(client, typed, "too many requests")
        assert client.post("/predict", json=empty).json["results"][0]["result"] == []
        assert refused(client, captured(CLICK), "too many"), "it has no field for that"
        assert refused(client, opened, "too many"), "Label Studio asks for predictions again"
        assert refused(client, long, "too many")
        with admission.aside(1), admission.aside(1), admission.aside(1), admission.aside(1):
            assert refused(client, typed, "too many"), "threads are kept for those who ask whether we live"
    assert 'x2sam_predict_errors_total{error="OverloadedError"} 1.0' in client.get("/metrics").text
    admission.stop()
    assert not refused(client, typed, "being stopped")
    assert engine.asked == []


def test_a_prompt_that_the_end_of_the_engine_took_away(app, client, captured, engine):
    engine.raises = CancelledError("the engine was closed before this could run")
    original = engine.open

    def told_to_stop(frames, key=None):
        app.extensions["x2sam"].admission.stop()
        return original(frames, key)

    engine.open = told_to_stop
    assert not refused(client, captured(WITH_REPLY), "being stopped")


def test_events_that_are_too_much_together_are_refused(app, client, captured):
    admission = app.extensions["x2sam"].admission
    with admission.reading(None):
        assert client.post("/webhook", json=captured("webhook_annotation_created")).status_code == 503
    with admission.work(1):
        assert client.post("/webhook", json=captured("webhook_annotation_created")).status_code == 201


@pytest.mark.parametrize("offered", ["abc-1.2:3_4", "x" * 64])
def test_a_harmless_request_id_is_kept(client, offered):
    assert client.get("/health", headers={"X-Request-ID": offered}).headers["X-Request-ID"] == offered


@pytest.mark.parametrize("offered", ["", "x" * 65, "a b", "a=b", "<script>", "ä", "a;b", '"'])
def test_another_request_id_is_replaced(client, offered):
    found = client.get("/health", headers={"X-Request-ID": offered}).headers["X-Request-ID"]
    assert re.fullmatch("[0-9a-f]{16}", found)


def test_what_nobody_expected_leaves_no_trace_outside(client, engine, captured, caplog):
    engine.raises = ZeroDivisionError("secret-text of a task")
    with caplog.at_level(logging.DEBUG):
        answer = client.post("/predict", json=captured(CLICK))
    said = answer.text
    assert "secret-text" not in said and "Traceback" not in said and "ZeroDivision" not in said
    reference = re.search("reference ([0-9a-f]{8})", json.dumps(answer.json)).group(1)
    lines = [logs.KeyValueLines().format(record) for record in caplog.records]
    (line,) = [line for line in lines if reference in line]
    assert "ZeroDivisionError" in line and "fake_engine.py" in line
    assert not any("secret-text" in line for line in lines)


def test_an_error_outside_of_a_task_is_told_in_the_same_way(app, client, captured, caplog):
    def fail(**_):
        raise ZeroDivisionError("secret-text")

    app.extensions["x2sam-model"] = fail
    with caplog.at_level(logging.DEBUG):
        answer = client.post("/predict", json=captured(CLICK))
    assert answer.status_code == 500
    assert "reference" in answer.json["error"]
    lines = [logs.JsonLines().format(record) for record in caplog.records]
    assert not any("secret-text" in line for line in lines)


def record(message: str = "happened", **fields) -> logging.LogRecord:
    made = logging.LogRecord("backend.x", logging.INFO, "", 0, message, (), None)
    made.fields = fields
    return made


def test_a_line_stays_one_line():
    line = logs.KeyValueLines().format(record("two\nlines", a="b c", b='q"', n=1.25, stages={"fetch": 0.5}, e=""))
    assert "\n" not in line
    assert line.endswith('INFO backend.x: two lines a="b c" b="q\\"" n=1.25 stages=fetch:0.5 e=""')
    assert json.loads(logs.JsonLines().format(record("two\nlines", a={"b": 1})))["a"] == {"b": 1}


def test_an_exception_is_logged_by_place_only():
    try:
        raise ValueError("secret-text")
    except ValueError as error:
        made = replace_exception(record(), error)
    for form in (logs.KeyValueLines(), logs.JsonLines()):
        line = form.format(made)
        assert "secret-text" not in line and "ValueError" in line and "test_an_exception_is_logged" in line


def replace_exception(made: logging.LogRecord, error: Exception) -> logging.LogRecord:
    made.exc_info = (type(error), error, error.__traceback__)
    return made


@pytest.mark.parametrize(
    ("value", "shown"), [("12", "12"), ("x", "?"), ("1 2", "?"), ("٣", "?"), ("9" * 30, "?"), ("", "?")]
)
def test_only_numbers_are_ids(value, shown):
    assert logs.loggable(value) == shown
