"""Zero wait with real engines behind the app: how often the encoders really run, and who is answered under load."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from picture_server import picture_bytes
from test_warming import CONFIG, PAGES, SOON, Desk, click, pictures, settings  # noqa: F401 - fixtures

from backend.app import close_services, create_app
from x2sam.structures import Point, Prompt

NANO = Path(__file__).parents[2] / "x2sam" / "checkpoints" / "nano" / "model.safetensors"


class Encoders:
    """How often the parts that depend on a picture alone have run."""

    def __init__(self, model):
        self.runs: Counter = Counter()
        parts = {"vision": model.vision_language.visual, "maps": model.mask_encoder, "pixels": model.pixel_decoder}
        count = lambda name: lambda *_: self.runs.update([name])  # noqa: E731
        self._hooks = [part.register_forward_hook(count(name)) for name, part in parts.items()]

    def close(self):
        for hook in self._hooks:
            hook.remove()

    def __eq__(self, times):
        return [self.runs[name] for name in ("vision", "maps", "pixels")] == [times] * 3


def start(engine, settings, pictures):  # noqa: F811
    app = create_app(settings, lambda: engine)
    app.extensions["x2sam"].engines.wait(SOON)
    return Desk(app, pictures)


@pytest.fixture(params=["tiny", pytest.param("nano", marks=pytest.mark.skipif(not NANO.is_file(), reason="no nano"))])
def engine(request, build_engine):
    if request.param == "tiny":
        return build_engine(snap=False)
    from x2sam.inference.engine import Engine

    return Engine.load("nano", device="cpu")


@pytest.fixture
def encoders(engine):
    made = Encoders(engine.model)
    yield made
    made.close()


@pytest.fixture
def desk(engine, settings, pictures, encoders):  # noqa: F811
    made = start(engine, replace(settings, warm_tasks=1), pictures)
    yield made
    close_services(made.services)


def test_the_first_click_on_the_next_task_runs_no_encoder(desk, encoders):
    desk.click(1)
    assert encoders == 1
    desk.idle()
    assert encoders == 2
    with desk.services.warmer.person_waits():
        assert desk.click(2)
    assert encoders == 2


def test_a_prediction_is_ready_to_be_corrected(desk, encoders):
    desk.open(1)
    with desk.services.warmer.person_waits():
        assert encoders == 1
        assert desk.click(1)
        assert encoders == 1
    desk.idle()
    assert encoders == 2
    with desk.services.warmer.person_waits():
        desk.open(2)
        assert desk.click(2)
    assert encoders == 2


def test_a_clip_that_was_opened(desk, encoders, pictures):  # noqa: F811
    pictures.add(20, frames=[f"/data/local-files/?d=picture{n}" for n in (5, 6, 7)])
    desk.open(20, PAGES)
    desk.idle()
    assert encoders == 1
    assert desk.click(20, click(item_index=0), config=PAGES)
    assert encoders == 1


def test_two_people_on_the_same_picture_under_two_addresses(desk, encoders, pictures):  # noqa: F811
    for task, name in ((20, "one"), (21, "other")):
        pictures.add(task, name, picture_bytes(90, 70))
    desk.services.warmer.close()
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(desk.click, (20, 21), (click("ann"), click("bob"))))
    assert encoders == 1
    assert [len(answer) for answer in answers] == [1, 1]


def test_a_picture_and_a_page_of_a_clip_share_their_maps(desk, encoders, pictures):  # noqa: F811
    desk.services.warmer.close()
    pictures.add(20, frames=[f"/data/local-files/?d=picture{n}" for n in (5, 6)])
    desk.click(6)
    desk.click(20, click(item_index=1), config=PAGES)
    assert (encoders.runs["maps"], encoders.runs["pixels"]) == (1, 1)


def test_a_session_that_was_closed_and_opened_again(desk, encoders):
    desk.services.warmer.close()
    desk.click(1)
    desk.services.sessions.close()
    assert desk.click(1)
    assert encoders == 1


@pytest.fixture
def held(engine):
    """Holds the device's thread until it is called."""
    begun, go = threading.Event(), threading.Event()
    pool = ThreadPoolExecutor(1)
    pool.submit(engine.run, lambda: (begun.set(), go.wait(SOON)))
    assert begun.wait(SOON)
    yield go.set
    go.set()
    pool.shutdown()


def wait_for(condition):
    until = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_only_the_latest_click_of_each_person_runs(engine, settings, pictures, held):  # noqa: F811
    """Three people on one task and label, each five quick clicks, while the device is taken."""
    desk = start(engine, replace(settings, warm_tasks=0), pictures)
    answered, waiting = [], engine.scheduler
    waiting.together = 1  # else clicks of several people go through in one pass
    passes: Counter = Counter()
    hook = engine.model.mask_decoder.register_forward_hook(lambda *_: passes.update(["decoder"]))
    spots = {"ann": 30.0, "bob": 50.0, "cem": 70.0}

    def ask(person, count):
        prompts = [click(f"{person}{n}", spots[person] + 2 * n) for n in range(count)]
        answer = desk.click(1, *prompts)
        answered.append((person, count, time.monotonic(), len(answer)))

    threads = []
    for count in range(1, 6):
        for person in spots:
            threads.append(threading.Thread(target=ask, args=(person, count)))
            threads[-1].start()
        # everybody's newest waits, and all that is older has been answered
        wait_for(lambda n=count: waiting.waiting == 3 and len(answered) == 3 * (n - 1))
    assert {entry[3] for entry in answered} == {0}, "an older click is answered at once, with nothing"
    assert sorted(entry[:2] for entry in answered) == [(person, n) for person in sorted(spots) for n in range(1, 5)]
    free = time.monotonic()
    held()
    for thread in threads:
        thread.join(30)
    last = [entry for entry in answered if entry[2] > free]
    assert sorted(entry[:2] for entry in last) == [(person, 5) for person in sorted(spots)]
    assert all(entry[3] == 1 for entry in last)
    assert passes["decoder"] == 3 * 5, "one pass for each click of the newest requests, none for the older ones"
    hook.remove()
    close_services(desk.services)


def test_preparing_waits_behind_clicks(engine, settings, pictures, held):  # noqa: F811
    desk = start(engine, settings, pictures)
    order = []
    run_all = engine.scheduler.run_all

    def noted(jobs, how, *rest):
        return run_all([replace(j, work=lambda i, j=j: order.append(int(how)) or j.work(i)) for j in jobs], how, *rest)

    engine.scheduler.run_all = noted
    desk.services.warmer.opened("7", task_of(pictures, 5), config_of(CONFIG), encoded=False)
    wait_for(lambda: engine.scheduler.waiting == 1)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(desk.click, 1)
        wait_for(lambda: engine.scheduler.waiting == 2)
        held()
        assert answer.result(30)
    desk.idle()
    assert order[0] == 0 and set(order[1:]) == {3}
    close_services(desk.services)


def task_of(pictures, number):  # noqa: F811
    from backend.protocol import parse_task

    return parse_task(pictures.tasks[number])


def config_of(xml):
    from backend.label_config import parse_label_config

    return parse_label_config(xml)


def test_a_restarted_backend_is_warm(build_engine, settings, pictures, tmp_path):  # noqa: F811
    first = build_engine(snap=False, store=tmp_path / "features", store_bytes=2**26)
    desk = start(first, replace(settings, warm_tasks=0), pictures)
    before = desk.click(1)
    close_services(desk.services)
    again = build_engine(snap=False, store=tmp_path / "features", store_bytes=2**26)
    encoders = Encoders(again.model)
    desk = start(again, replace(settings, warm_tasks=0), pictures)
    assert desk.click(1) == before
    assert encoders == 0
    assert desk.metric("x2sam_feature_restored_total") == 3
    assert desk.metric("x2sam_feature_stored_bytes") > 0
    close_services(desk.services)
    encoders.close()


def test_an_engine_that_was_prepared_answers_as_one_that_was_not(build_engine, pictures):  # noqa: F811
    import io

    import numpy as np
    from PIL import Image

    picture = np.asarray(Image.open(io.BytesIO(pictures.files["picture1"])).convert("RGB"))
    cold, warm = (build_engine(snap=False).open(picture) for _ in range(2))
    warm.prepare()
    prompt = Prompt(points=(Point(30, 30),))
    assert warm.segment(prompt)[0].mask.tobytes() == cold.segment(prompt)[0].mask.tobytes()
