"""Pictures are encoded before somebody clicks: counted by the encoder, through the app and a stand-in Label Studio."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

import pytest
from picture_server import picture_bytes
from project_server import ProjectServer

from backend.app import close_services, create_app
from x2sam.errors import BusyError

CONFIG = """<View><Image name="image" value="$image"/>
<KeyPointLabels name="point" toName="image" smart="true"><Label value="Object"/></KeyPointLabels>
<BrushLabels name="brush" toName="image" smart="false"><Label value="Object"/></BrushLabels></View>"""
PAGES = CONFIG.replace('value="$image"', 'valueList="$frames"')
SOON = 60


def click(name="a", x=50.0, **fields):
    value = {"x": x, "y": 50.0, "width": 0.2, "keypointlabels": ["Object"]}
    return {
        "id": name, "from_name": "point", "to_name": "image", "type": "keypointlabels", "is_positive": True,
        "original_width": 100, "original_height": 80, "image_rotation": 0, "value": value, **fields,
    }  # fmt: skip


@pytest.fixture
def pictures():
    server = ProjectServer()
    for task in range(1, 10):
        server.add(task)
    yield server
    server.close()


@pytest.fixture
def settings(settings):
    return replace(settings, label_studio_api_key="secret", warm_tasks=3)


class Desk:
    """An annotator who opens tasks and clicks."""

    def __init__(self, app, pictures):
        self.services, self.client, self.pictures = app.extensions["x2sam"], app.test_client(), pictures

    def post(self, task, context, config=CONFIG):
        body = {"tasks": [task], "project": f"{self.pictures.project}.1700000000", "label_config": config}
        answer = self.client.post("/predict", json={**body, "params": {"context": context}})
        assert answer.status_code == 200, answer.json
        return answer.json["results"][0]

    def open(self, number, config=CONFIG):
        return self.post(self.pictures.tasks[number], None, config)

    def click(self, number, *prompts, config=CONFIG):
        return self.post(self.pictures.tasks[number], {"result": list(prompts or [click()])}, config)["result"]

    def idle(self):
        assert self.services.warmer.wait_idle(SOON)

    def metric(self, name):
        lines = self.client.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.split()[0] == name)


@pytest.fixture
def desk(app, pictures):
    return Desk(app, pictures)


@pytest.mark.parametrize("how", ["open", "click"])
def test_the_next_tasks_cost_no_encoding(desk, engine, how):
    getattr(desk, how)(1)
    desk.idle()
    digests = [desk.services.fetcher.fetch(f"/data/local-files/?d=picture{n}").digest for n in range(1, 5)]
    assert engine.encoded == digests
    with desk.services.warmer.person_waits():  # so that the tasks after these are not begun meanwhile
        for number in (2, 3, 4):
            desk.open(number)
            assert desk.click(number)
    assert engine.encoded == digests


def test_nothing_is_left_to_do_for_the_first_click(desk, engine, pictures):
    """Neither fetched, nor decoded, nor encoded again."""
    desk.click(1)
    desk.idle()
    encoded, fetched, decoded = len(engine.encoded), len(pictures.fetched()), desk.services.decoded.total_bytes
    with desk.services.warmer.person_waits():  # so that the task after it is not begun meanwhile
        desk.click(2)
    assert (len(engine.encoded), len(pictures.fetched())) == (encoded, fetched) == (4, 4)
    assert desk.services.decoded.total_bytes == decoded


def test_a_clip_is_encoded_when_it_is_opened(desk, engine, pictures):
    """Clips get no predictions, so that opening one asks nothing of the model."""
    pages = [f"/data/local-files/?d=picture{n}" for n in (5, 6, 7)]
    pictures.add(20, frames=pages)
    desk.open(20, PAGES)
    desk.idle()
    assert engine.asked == [] and len(engine.encoded) == 1
    assert desk.click(20, click(item_index=0), config=PAGES)
    assert len(engine.encoded) == 1


def test_pages_of_the_next_clip(desk, engine, pictures):
    for task, number in ((20, 1), (21, 4)):
        pages = [f"/data/local-files/?d=picture{n}" for n in range(number, number + 3)]
        pictures.add(task, frames=pages)
    desk.click(20, click(item_index=1), config=PAGES)
    desk.idle()
    encoded = len(engine.encoded)
    desk.click(21, click(item_index=0), config=PAGES)
    assert len(engine.encoded) == encoded == 2


def test_off(app, desk, engine, settings):
    close_services(desk.services)
    app = create_app(replace(settings, warm_tasks=0), lambda: engine)
    app.extensions["x2sam"].engines.wait(5)
    quiet = Desk(app, desk.pictures)
    quiet.click(1)
    quiet.open(2)
    time.sleep(0.1)
    assert quiet.services.warmer._thread is None
    assert len(engine.encoded) == 2 and desk.pictures.listed == []
    close_services(quiet.services)


def test_without_a_token_only_what_was_opened(app, desk, engine, settings):
    close_services(desk.services)
    app = create_app(replace(settings, label_studio_api_key=""), lambda: engine)
    app.extensions["x2sam"].engines.wait(5)
    poor = Desk(app, desk.pictures)
    desk.pictures.add(20, frames=["/data/local-files/?d=picture5"] * 2)
    poor.open(20, PAGES)
    poor.idle()
    assert len(engine.encoded) == 1 and desk.pictures.listed == []
    close_services(poor.services)


def test_a_batch_of_tasks_is_nobody_at_work(desk, pictures):
    body = {"tasks": [pictures.tasks[n] for n in (1, 2)], "project": "7.1", "label_config": CONFIG}
    assert desk.client.post("/predict", json={**body, "params": {"context": None}}).status_code == 200
    assert desk.services.warmer._thread is None


def test_no_more_than_the_bytes_that_are_allowed(desk, engine, settings, pictures):
    close_services(desk.services)
    one = 80 * 104 * 3
    app = create_app(replace(settings, warm_tasks=8, warm_bytes=2 * one), lambda: engine)
    app.extensions["x2sam"].engines.wait(5)
    small = Desk(app, pictures)
    small.click(1)
    small.idle()
    assert len(engine.encoded) == 3
    close_services(small.services)


def test_every_click_on_a_task_asks_for_the_next_ones_once(desk, pictures):
    for number in range(5):
        desk.click(1, click("a", 40.0 + number))
    desk.idle()
    assert len(pictures.listed) == 1


def test_a_person_who_waits_goes_first(desk, engine):
    with desk.services.warmer.person_waits():
        desk.click(1)
        time.sleep(0.2)
        assert len(engine.encoded) == 1, "nothing is begun while somebody waits for an answer"
    desk.idle()
    assert len(engine.encoded) == 4


def test_the_task_that_was_opened_last_goes_first(desk, engine, pictures):
    """Two people; the first one's plan is interrupted after the picture that is being worked on."""
    held, go = threading.Event(), threading.Event()
    prepare = engine.prepare

    def slow(frames, frame):
        if threading.current_thread().name == "x2sam-warming" and not held.is_set():
            held.set()
            assert go.wait(SOON)
        prepare(frames, frame)

    engine.prepare = slow
    desk.click(1)
    assert held.wait(SOON)
    desk.click(6)
    go.set()
    desk.idle()
    digests = {desk.services.fetcher.fetch(f"/data/local-files/?d=picture{n}").digest: n for n in range(1, 10)}
    order = [digests[digest] for digest in engine.encoded]
    assert order == [1, 6, 2, 7, 8, 9, 3, 4]


def test_a_click_on_the_picture_that_is_being_encoded_does_not_wait_for_the_rest(desk, engine):
    held, go = threading.Event(), threading.Event()
    prepare = engine.prepare

    def slow(frames, frame):
        if threading.current_thread().name == "x2sam-warming":
            held.set()
            assert go.wait(SOON)
        prepare(frames, frame)

    engine.prepare = slow
    desk.click(1)
    assert held.wait(SOON)
    start = time.monotonic()
    assert desk.click(2)
    assert time.monotonic() - start < SOON / 2
    go.set()
    desk.idle()


def test_what_can_not_be_fetched_is_left_out(desk, engine, pictures):
    del pictures.files["picture2"]
    pictures.files["picture3"] = b"no picture"
    desk.click(1)
    desk.idle()
    last = desk.services.fetcher.fetch("/data/local-files/?d=picture4").digest
    assert engine.encoded[-1] == last and desk.metric("x2sam_warmed_tasks_total") == 1


def test_a_busy_device_ends_the_plan(desk, engine, monkeypatch):
    prepare, seen = engine.prepare, []

    def busy(frames, frame):
        if threading.current_thread().name == "x2sam-warming":
            seen.append(frame)
            raise BusyError("too much waits")
        prepare(frames, frame)

    engine.prepare = busy
    desk.click(1)
    desk.idle()
    assert seen == [0]


def test_label_studio_that_refuses_is_told_about_once(desk, engine, pictures, caplog):
    pictures.token = "Token another"
    pictures.tasks[1]["data"] = {"image": "data:image/png;base64," + encoded_picture()}
    pictures.tasks[2]["data"] = pictures.tasks[1]["data"]
    with caplog.at_level(logging.INFO):
        desk.click(1)
        desk.idle()
        desk.click(2)
        desk.idle()
    told = [record for record in caplog.records if record.name == "backend.warming"]
    assert [record.levelname for record in told] == ["WARNING"]
    assert "secret" not in caplog.text and pictures.url not in told[0].getMessage()
    assert len(engine.encoded) == 1


def encoded_picture():
    import base64

    return base64.b64encode(picture_bytes(60, 40)).decode()


def test_a_bug_does_not_end_it(desk, engine, caplog):
    prepare, secret = engine.prepare, "the text of a task"

    def broken(frames, frame):
        if threading.current_thread().name == "x2sam-warming" and len(engine.encoded) == 1:
            engine.encoded.append("broken")
            raise ZeroDivisionError(secret)
        prepare(frames, frame)

    engine.prepare = broken
    desk.click(1)
    desk.idle()
    (told,) = (record.fields for record in caplog.records if record.levelname == "ERROR")
    assert told["error"] == "ZeroDivisionError" and ":broken" in told["at"]
    assert secret not in caplog.text + told["at"]
    desk.click(5)
    desk.idle()
    assert len(engine.encoded) == 2 + 4


def test_closing_ends_the_thread(desk, engine):
    desk.click(1)
    thread = desk.services.warmer._thread
    desk.services.warmer.close()
    assert not thread.is_alive()
    desk.click(5)
    assert len(engine.encoded) <= 6


def test_two_addresses_of_one_picture_are_encoded_once(desk, engine, pictures):
    """Two people, two tasks, two addresses: the content counts."""
    same = picture_bytes(90, 70)
    for task, name in ((20, "one"), (21, "other")):
        pictures.add(task, name, same)
    desk.click(20)
    desk.click(21, click("b"))
    assert len(engine.encoded) == 1
    assert len({name for name in pictures.fetched() if name in ("one", "other")}) == 2


def test_numbers(desk):
    desk.click(1)
    desk.idle()
    assert desk.metric("x2sam_warmed_tasks_total") == 3
    assert desk.metric("x2sam_warmed_tasks_used_total") == 0
    desk.click(2)
    desk.click(2)
    desk.idle()
    assert desk.metric("x2sam_warmed_tasks_used_total") == 1
    assert desk.metric("x2sam_warmed_tasks_total") == 4
    assert desk.metric("x2sam_feature_misses_total") == 5
    hits = desk.metric("x2sam_feature_hits_total")
    assert hits >= 2
    assert desk.metric("x2sam_feature_hit_ratio") == pytest.approx(hits / (hits + 5))
    for kept in ("media_cache", "decoded"):
        assert desk.metric(f"x2sam_{kept}_misses_total") == 5, "each picture is fetched and decoded once"
        assert desk.metric(f"x2sam_{kept}_hits_total") >= 2
    for name in ("x2sam_feature_restored_total", "x2sam_feature_stored_bytes"):
        assert desk.metric(name) == 0
    assert desk.metric("x2sam_feature_bytes") > 0
