"""Annotations that Label Studio tells of, in ``/metrics``."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import pytest
from exporting import annotation, drawn, items
from prometheus_client import CollectorRegistry
from prompting import Asker, click, only
from test_effort import TEN, TWENTY

from backend.app import close_app, create_app
from backend.effort import Effort
from backend.effort_meter import EffortMeter, EffortNumbers, prediction_by, unknown_prediction
from backend.errors import BackendError
from backend.events import CREATED, UPDATED

LIKE = "predict_interactive_text"


def number(app, name, **labels):
    return app.extensions["x2sam"].metrics.registry.get_sample_value(name, labels)


def until(read, wanted, seconds=10.0):
    end = time.monotonic() + seconds
    while read() != wanted and time.monotonic() < end:
        time.sleep(0.01)
    assert read() == wanted


def told(client, captured, action, *result, **fields):
    body = captured("webhook_annotation_created")
    asked = captured(LIKE)
    body["action"] = action
    body["annotation"] |= {"result": list(result), "lead_time": 8.0, "parent_prediction": None} | fields
    body["annotation"]["task"] = body["task"]["id"] = asked["tasks"][0]["id"]
    body["task"]["data"] = asked["tasks"][0]["data"]
    body["project"]["label_config"] = asked["label_config"]
    assert client.post("/webhook", json=body).status_code == 201


@pytest.fixture
def clicked(client, captured, pictures):
    return only(Asker(client, captured)(click(50, 50)))


def test_a_click_that_was_submitted(app, client, captured, clicked):
    by_hand = drawn(TEN, "fTgh56", "Other")
    told(client, captured, CREATED, clicked, by_hand)
    where = {"label": "Object", "version": "fake-0001"}
    until(lambda: number(app, "x2sam_submitted_masks_total", **where, kind="prompted", touched="no"), 1)
    assert number(app, "x2sam_submitted_mask_prompts_sum", **where) == 1
    assert number(app, "x2sam_submitted_mask_seconds_sum", **where) == 4  # half of 8 s
    assert number(app, "x2sam_submitted_mask_iou_sum", **where) == 1
    until(
        lambda: number(
            app, "x2sam_submitted_masks_total", label="Other", version="", kind="drawn", touched="unknown"
        ), 1,
    )  # fmt: skip
    assert b"fTgh56" not in client.get("/metrics").data


def test_only_the_first_submission_counts(app, client, captured, clicked):
    told(client, captured, UPDATED, clicked)
    told(client, captured, CREATED, clicked, was_cancelled=True)
    told(client, captured, CREATED, clicked)
    where = {"label": "Object", "version": "fake-0001", "kind": "prompted", "touched": "no"}
    until(lambda: number(app, "x2sam_submitted_masks_total", **where), 1)
    time.sleep(0.1)
    assert number(app, "x2sam_submitted_masks_total", **where) == 1


def test_damaged_annotations_are_survived(app, client, captured, clicked):
    for result in ([{"type": "brushlabels", "value": []}], [7], {"a": 1}):
        told(client, captured, CREATED, **{"result": result})
    told(client, captured, CREATED, clicked)
    where = {"label": "Object", "version": "fake-0001", "kind": "prompted", "touched": "no"}
    until(lambda: number(app, "x2sam_submitted_masks_total", **where), 1)


def test_what_nobody_expected_is_counted_and_survived():
    meter, numbers = meter_with()
    for task in ({"id": "no number"}, {"id": 1, "data": {}}):
        meter.told(CREATED, {"annotation": annotation(items(TEN)), "task": task}, XML)
    until(lambda: numbers.masks.labels("cat", "(unknown)", "unknown", "unknown")._value.get(), 1)
    assert numbers.lost._value.get() == 1
    meter.close()


@pytest.mark.parametrize("wanted", [False, True])
def test_annotators_by_pseudonym_where_the_settings_say_so(settings, engine, captured, wanted):
    app = create_app(replace(settings, report_annotators=wanted), lambda: engine)
    client = app.test_client()
    told(client, captured, CREATED, drawn(TEN, "h1", "Object"), completed_by=4711)
    registry = app.extensions["x2sam"].metrics.registry
    hand = {"label": "Object", "version": "", "kind": "drawn", "touched": "unknown"}
    until(lambda: registry.get_sample_value("x2sam_submitted_masks_total", hand), 1)
    text = client.get("/metrics").text
    close_app(app)
    assert "4711" not in text and ("x2sam_annotator_mask_seconds_sum{" in text) == wanted


def meter_with(answers=lambda *_: (), prediction=unknown_prediction):
    numbers = EffortNumbers(CollectorRegistry(), False)
    return EffortMeter(numbers, answers, prediction), numbers


XML = """<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image"><Label value="cat"/>
</BrushLabels></View>"""


def test_what_is_too_much_is_counted_and_nobody_waits():
    go_on = threading.Event()
    meter, numbers = meter_with(answers=lambda *_: go_on.wait(20) and ())
    event = {"annotation": annotation(items(TEN)), "task": {"id": 1, "data": {"image": "a.jpg"}}}
    begun = time.monotonic()
    for _ in range(200):
        meter.told(CREATED, event, XML)
    assert time.monotonic() - begun < 5
    lost = numbers.lost._value.get()
    go_on.set()
    assert lost >= 200 - 65  # 64 wait and one is worked on
    until(lambda: sum(s.value for m in numbers.masks.collect() for s in m.samples if s.name.endswith("_total")),
          200 - lost)  # fmt: skip
    meter.close()


def test_a_stored_prediction_is_asked_for():
    prediction = {"model_version": "nightly", "result": items(TEN)}
    asked = []

    def ask(path, limit, seconds):
        asked.append(path)
        return json.dumps(prediction).encode()

    meter, numbers = meter_with(prediction=prediction_by(ask))
    changed = [item | {"origin": "prediction-changed"} for item in items(TWENTY)]
    given = annotation(changed, parent_prediction=12)
    meter.told(CREATED, {"annotation": given, "task": {"id": 1, "data": {"image": "a.jpg"}}}, XML)
    until(lambda: numbers.overlap.labels("cat", "nightly")._sum.get(), 0.5)
    meter.close()
    assert asked == ["/api/predictions/12/"]

    def refuse(*_):
        raise BackendError("no")

    assert prediction_by(refuse)(1) is None and prediction_by(lambda *_: b"[")(1) is None


def test_labels_of_numbers_are_bounded():
    registry = CollectorRegistry()
    numbers = EffortNumbers(registry, True)
    for one in range(500):
        numbers.add(Effort(f"label {one}" * 50, "prompted", f"v{one % 7}", 1, 1.0, 1.0, 1.0, True), f"person {one}")
    lines = [sample for metric in registry.collect() for sample in metric.samples]
    pairs = {(s.labels["label"], s.labels["version"]) for s in lines if "label" in s.labels}
    assert len(pairs) == 65 and max(len(name) for name, _ in pairs) == 100
    assert len({sample.labels["annotator"] for sample in lines if "annotator" in sample.labels}) == 65
    others = {"label": "(all others)", "version": "(all others)", "kind": "prompted", "touched": "no"}
    assert registry.get_sample_value("x2sam_submitted_masks_total", others) == 500 - 64
