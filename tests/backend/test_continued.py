"""The next task of a video begins with the objects of the one before: opened, continued by a person, out of sight."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from clip_desk import by_page, point, typed
from clip_project import PAGES, SIZE, ClipProject, Desk, region
from fake_engine import STEP
from prompting import edited, object_of
from reading import pixels, regions, sentences

from backend.app import close_app, create_app


def at(left, width=20):
    mask = np.zeros(SIZE, bool)
    mask[10:30, left : left + width] = True
    return mask


A, B = "obj0123456789", "obj9876543210"


@pytest.fixture
def pictures():
    server = ClipProject()
    server.add(11, 0)
    server.add(12, PAGES)
    yield server
    server.close()


@pytest.fixture
def settings(settings):
    return replace(settings, label_studio_api_key="a" * 40)


@pytest.fixture
def desk(client, pictures):
    return Desk(client, pictures)


def moving(name, left, pages, label="Object 1"):
    return [region(name, page, at(left + STEP * page), label) for page in pages]


def test_opening_the_next_task_proposes_the_tracks(desk, pictures, engine):
    pictures.store("annotations", 11, moving(A, 10, range(PAGES)))
    (entry,) = desk.open(12)
    items = by_page(entry)
    assert sorted(items) == list(range(PAGES))
    assert {object_of(item) for item in items.values()} == {A}, "one track over both tasks"
    for page, item in items.items():
        np.testing.assert_array_equal(pixels(item), at(10 + STEP * (PAGES + page)))
        assert item["value"]["brushlabels"] == ["Object 1"] and item["id"] == f"{A}-{page:04d}"
    assert "Object 1: tracked 6 pages." in sentences(entry)[0]
    assert entry["score"] == min(item["score"] for item in items.values())
    session = engine.sessions[-1]
    assert len(session.frames) == 3 + PAGES, "the last pages of the task before stand before its own"
    assert [frame for frame, *_ in engine.corrected] == [0, 1, 2]
    assert session.closed


def test_a_task_in_the_middle_of_a_batch(desk, pictures):
    """Label Studio has no prediction of the second task yet when the third one is asked for."""
    pictures.add(13, 2 * PAGES)
    pictures.store("annotations", 11, moving(A, 10, range(PAGES)))
    second, third = desk.open(12, 13)
    assert {object_of(item) for item in regions(third)} == {A}
    np.testing.assert_array_equal(pixels(by_page(third)[0]), at(10 + STEP * 2 * PAGES))
    assert by_page(second).keys() == by_page(third).keys()


def test_a_batch_waits_no_longer_than_it_has_time(settings, engine, pictures):
    let_on = threading.Event()
    engine.on_page = lambda page: let_on.wait(4)
    app = create_app(replace(settings, batch_seconds=0.3), lambda: engine)
    try:
        app.extensions["x2sam"].engines.wait(5)
        pictures.store("annotations", 11, moving(A, 10, range(PAGES)))
        begun = time.monotonic()
        (entry,) = Desk(app.test_client(), pictures).open(12)
        assert "result" not in entry and time.monotonic() - begun < 3
    finally:
        let_on.set()
        close_app(app)


def test_nothing_before_stores_nothing(desk, pictures):
    for task in (11, 12):
        (entry,) = desk.open(task)
        assert "result" not in entry, "an empty prediction would keep Label Studio from asking again"
    pictures.store("annotations", 11, [])
    assert "result" not in desk.open(12)[0]


def test_what_a_person_did_goes_before_what_was_predicted(desk, pictures):
    pictures.store("predictions", 11, moving(A, 10, range(PAGES)))
    assert pixels(by_page(desk.open(12)[0])[0])[20, 22]
    pictures.store("drafts", 11, moving(A, 60, range(PAGES)))
    prompt = typed("continue")
    np.testing.assert_array_equal(pixels(by_page(desk.ask(12, prompt))[0]), at(60 + STEP * PAGES))
    pictures.store("annotations", 11, moving(B, 100, range(PAGES)))
    pictures.store("annotations", 11, moving(A, 0, range(PAGES)), was_cancelled=True)
    items = by_page(desk.ask(12, typed("continue")))
    assert {object_of(item) for item in items.values()} == {B}


def test_objects_that_left_may_come_back(desk, pictures, engine):
    """They are known where they were seen last, and out of sight on the last pages of what a person submitted."""
    pictures.store("annotations", 11, [*moving(A, 10, range(PAGES)), *moving(B, 90, range(2), "Object 2")])
    (entry,) = desk.open(12)
    given = {(frame, name): mask.any() for frame, name, mask in engine.corrected}
    assert given == {
        **{(frame, A): True for frame in range(1, 4)},
        (0, B): True,
        **{(frame, B): False for frame in range(1, 4)},
    }
    assert {object_of(item) for item in regions(entry)} == {A}
    assert "Object 2: not seen on pages 1-6." in sentences(entry)[0]


def test_objects_that_left_a_task_earlier_may_come_back(desk, pictures, engine):
    pictures.add(13, 2 * PAGES)
    pictures.store("annotations", 11, [*moving(A, 10, range(PAGES)), *moving(B, 60, range(4))])
    pictures.store("annotations", 12, moving(A, 10 + STEP * PAGES, range(PAGES)))
    (entry,) = desk.open(13)
    assert "Least sure" in sentences(entry)[0]
    given = {(frame, name): mask.any() for frame, name, mask in engine.corrected}
    assert given == {
        **{(frame, A): True for frame in range(1, 4)},
        (0, B): True,
        **{(frame, B): False for frame in range(1, 4)},
    }, "page 4 of the first task, then the last three of the second"
    assert len(engine.sessions[-1].frames) == 4 + PAGES
    np.testing.assert_array_equal(pixels(by_page(entry, A)[0]), at(10 + STEP * 2 * PAGES))


def test_masks_drawn_by_hand_come_along(desk, pictures):
    pictures.store("annotations", 11, [region("kx3", 4, at(30)), region("ky7", 5, at(32))])
    items = by_page(desk.open(12)[0])
    assert sorted(items) == list(range(PAGES)) and len({object_of(item) for item in items.values()}) == 1
    np.testing.assert_array_equal(pixels(items[0]), at(34))


def test_track_with_nothing_on_the_screen(desk, pictures):
    pictures.store("annotations", 11, moving(A, 10, range(PAGES)))
    entry = desk.ask(12, typed("track 2"))
    assert sorted(by_page(entry)) == [0, 1, 2]
    assert sorted(by_page(desk.ask(12, typed("track")))) == list(range(PAGES))


def test_after_a_correction_the_task_before_counts_as_well(desk, pictures, engine):
    pictures.store("annotations", 11, moving(A, 10, range(PAGES)))
    items = by_page(desk.open(12)[0])
    mine = edited(items[4], lambda mask: mask.__setitem__(np.s_[:, :40], False))
    screen = [*(items[page] for page in items if page != 4), mine]
    engine.corrected.clear()
    entry = desk.ask(12, typed("continue"), on_screen=screen)
    again = by_page(entry)
    assert 4 not in again, "a person's mask is left alone"
    np.testing.assert_array_equal(pixels(again[5]), np.roll(pixels(mine), STEP, axis=1))
    np.testing.assert_array_equal(pixels(again[0]), pixels(items[0]))
    assert sorted({frame for frame, *_ in engine.corrected}) == [0, 1, 2, 7]


def test_new_objects_join(desk, pictures):
    pictures.store("annotations", 11, moving(A, 10, range(PAGES)))
    new = by_page(desk.ask(12, point(50, 50, 3, tag="point")))[3]
    items = regions(desk.ask(12, typed("continue"), on_screen=[new]))
    pages = {A: [], object_of(new): []}
    for item in items:
        pages[object_of(item)].append(item["item_index"])
    assert sorted(pages[A]) == list(range(PAGES))
    assert sorted(pages[object_of(new)]) == [0, 1, 2, 4, 5]


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (11, "this is where the video begins"),
        (12, "the task before this one has no masks"),
        (20, "no task with the pages before"),
        (30, "not imported"),
    ],
)
def test_why_there_is_nothing(desk, pictures, task, told):
    pictures.add(20, 100)
    pictures.tasks[30] = {"id": 30, "project": 3, "data": {"frames": pictures.tasks[11]["data"]["frames"]}}
    entry = desk.ask(task, typed("continue"))
    assert not regions(entry) and told in sentences(entry)[0]


def test_other_videos_and_rates_are_left_alone(desk, pictures):
    pictures.add(13, PAGES, video="f" * 16)
    pictures.add(14, PAGES, rate=25.0)
    pictures.store("annotations", 11, moving(A, 10, range(PAGES)))
    assert all("result" not in entry for entry in desk.open(13, 14))


def test_overlapping_tasks(desk, pictures, engine):
    """Another import may cut the same video elsewhere."""
    pictures.add(15, 4)
    pictures.store("annotations", 11, moving(A, 10, range(PAGES)))
    items = by_page(desk.open(15)[0])
    np.testing.assert_array_equal(pixels(items[0]), at(10 + STEP * 4))
    assert len(engine.sessions[-1].frames) == 3 + PAGES


def test_without_a_token_what_was_answered_here_counts(settings, engine, pictures):
    app = create_app(replace(settings, label_studio_api_key=""), lambda: engine)
    desk = Desk(app.test_client(), pictures)
    try:
        assert "LABEL_STUDIO_API_KEY" in sentences(desk.ask(12, typed("continue")))[0]
        first = point(20, 50, 0)
        items = by_page(desk.ask(11, first))
        answer = by_page(desk.ask(12, typed("continue")))
        assert sorted(answer) == list(range(PAGES))
        assert object_of(answer[0]) == object_of(items[0])
        np.testing.assert_array_equal(pixels(answer[0]), np.roll(pixels(items[5]), STEP, axis=1))
        # what a person changed there since, as far as it was seen here
        mine = edited(items[5], lambda mask: mask.__setitem__(np.s_[:20], False))
        desk.ask(11, typed("nothing", 2), on_screen=[*(items[page] for page in range(5)), mine])
        changed = by_page(desk.ask(12, typed("continue")))
        np.testing.assert_array_equal(pixels(changed[0]), np.roll(pixels(mine), STEP, axis=1))
        # and what a person took away is gone
        other = by_page(desk.ask(11, point(60, 50, 0, "Object 2", tag="point"), on_screen=items.values()))[0]
        desk.ask(11, typed("nothing", 2), on_screen=[other])
        assert {object_of(item) for item in regions(desk.ask(12, typed("continue")))} == {object_of(other)}
        assert not pictures.asked
    finally:
        close_app(app)


def test_a_label_studio_that_does_not_answer(desk, pictures):
    pictures.down = True
    entry = desk.ask(12, typed("continue"))
    assert "can't be looked at" in sentences(entry)[0] and "JSON" in sentences(entry)[0]
    assert "result" not in desk.open(12)[0]


def test_a_slow_label_studio_holds_nobody_up_for_long(desk, pictures, monkeypatch):
    monkeypatch.setattr("backend.continued._API_SECONDS", 0.3)
    pictures.delay = 0.2
    begun = time.monotonic()
    assert "try again" in sentences(desk.ask(12, typed("continue")))[0]
    assert time.monotonic() - begun < 3


def test_two_tasks_of_one_video_do_not_disturb_each_other(desk, pictures, engine):
    """The same object has a mask on the same page of both."""
    first = by_page(desk.ask(11, point(20, 50, 0)))
    pictures.store("annotations", 11, list(first.values()))
    second = by_page(desk.open(12)[0])
    engine.walked.clear()
    again = by_page(desk.ask(12, typed("track"), on_screen=second.values()))
    assert sorted(again) == list(range(PAGES)), "nothing there is a person's"
    back = by_page(desk.ask(11, typed("track"), on_screen=first.values()))
    assert sorted(back) == list(range(1, PAGES))
    np.testing.assert_array_equal(pixels(back[3]), pixels(first[3]))
