"""A real engine behind the app breaks and hangs: who waits is told so, /ready says it, and it goes on by itself."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from test_warming import CONFIG, SOON, click, pictures, settings  # noqa: F401 - fixtures
from test_warming_engines import Desk, start, wait_for

from backend.app import close_services

TOLD = CONFIG.replace("</View>", '<TextArea name="reply" toName="image" smart="false" editable="false"/></View>')


class Broken(BaseException):
    """What no job of ours raises: a thread that meets it ends."""


@pytest.fixture
def desk_of(settings, pictures):  # noqa: F811
    """(engine) to somebody who clicks; nothing is encoded ahead."""
    made: list[Desk] = []

    def desk_of(engine):
        made.append(start(engine, replace(settings, warm_tasks=0), pictures))
        return made[-1]

    yield desk_of
    for desk in made:
        close_services(desk.services)


@pytest.fixture
def at_the_decoder():
    """(engine, what happens there once) while the test runs."""
    hooks = []

    def at_the_decoder(engine, happens):
        left = [happens]
        hooks.append(engine.model.mask_decoder.register_forward_hook(lambda *_: (left and left.pop()()) or None))

    yield at_the_decoder
    for hook in hooks:
        hook.remove()


def masks(items):
    return [item for item in items if item["type"] == "brushlabels"]


def sentence(items):
    return next(item["value"]["text"][0] for item in items if item["type"] == "textarea")


def test_a_thread_that_breaks_is_replaced_and_who_waits_is_told(build_engine, desk_of, at_the_decoder):
    engine = build_engine(snap=False)
    desk = desk_of(engine)

    def broken():
        raise Broken

    at_the_decoder(engine, broken)
    told = desk.click(1, config=TOLD)
    assert not masks(told) and "broke during this request and was started again; try again" in sentence(told)
    assert desk.metric("x2sam_device_restarts_total") == 1
    assert desk.metric('x2sam_predict_errors_total{error="DeviceError"}') == 1
    assert desk.client.get("/ready").status_code == 200
    again = desk.click(1, config=TOLD)
    assert len(masks(again)) == 1 and "sure" in sentence(again)


def test_a_step_that_hangs_is_told_to_everybody_until_it_comes_back(build_engine, desk_of, at_the_decoder):
    engine = build_engine(snap=False, hang=1.0)
    desk, begun, go = desk_of(engine), threading.Event(), threading.Event()
    at_the_decoder(engine, lambda: (begun.set(), go.wait(SOON))[0])
    with ThreadPoolExecutor(1) as pool:
        try:
            first = pool.submit(desk.click, 1, config=TOLD)
            assert begun.wait(SOON)
            assert "has not come back from one step" in sentence(first.result(SOON))
            assert "has not come back" in sentence(desk.click(2, click("b"), config=TOLD))
            ready = desk.client.get("/ready")
            assert ready.status_code == 503 and "does not come back" in ready.json["problems"][0]
            assert desk.client.get("/health").status_code == 200
            assert desk.metric("x2sam_device_responsive") == 0
        finally:
            go.set()
    wait_for(lambda: engine.vitals.responsive)
    assert len(masks(desk.click(2, click("b"), config=TOLD))) == 1
    assert desk.client.get("/ready").status_code == 200


def test_times_of_every_part_by_kind_of_prompt(build_engine, desk_of):
    desk = desk_of(build_engine(snap=False))
    assert desk.click(1)
    for stage in ("fetch", "decode", "wait", "encode", "segment", "shape", "journal"):
        assert desk.metric(f'x2sam_stage_seconds_count{{kind="click",stage="{stage}"}}') == 1, stage
    desk.open(2)
    assert desk.metric('x2sam_stage_seconds_count{kind="automatic",stage="encode"}') == 1
    for name in ("click", "text", "track", "batch"):
        assert desk.metric(f'x2sam_queue_length{{class="{name}"}}') == 0
        assert desk.metric(f'x2sam_queue_age_seconds{{class="{name}"}}') == 0
    assert desk.metric("x2sam_feature_misses_total") > 0 and desk.metric("x2sam_feature_bytes") > 0
    assert desk.metric("x2sam_sessions") == 2
