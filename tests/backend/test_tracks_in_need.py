"""Tracks where something is missing: room for another one, a page that was there before, time for the answer."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clip_desk import HEIGHT, PAGES, WIDTH, Desk, by_page, drawn, point, typed, wait_for
from picture_server import picture_bytes
from prompting import object_of
from reading import regions, sentences

from backend import background
from backend.app import close_app, create_app
from backend.track_job import TrackJob

STOP = 4  # the first page that waits to be let through


@pytest.fixture
def pictures(pictures):
    for page in range(PAGES):
        pictures.files[f"small/{page}.png"] = picture_bytes(WIDTH, HEIGHT)
    return pictures


@pytest.fixture
def gate(engine):
    """Tracks go on from page ``STOP`` when this is set."""
    gate = threading.Event()
    engine.on_page = lambda page: page < STOP or gate.wait(10)
    return gate


@pytest.fixture
def app(settings, engine, pictures, gate):
    app = create_app(replace(settings, track_seconds=0.4, tracks=1), lambda: engine)
    app.extensions["x2sam"].engines.wait(5)
    yield app
    gate.set()
    close_app(app)


@pytest.fixture
def desk(app):
    return Desk(app.test_client())


@pytest.fixture
def services(app):
    return app.extensions["x2sam"]


def mask_at(left):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, left : left + 20] = True
    return mask


def test_time_is_up_before_it_begins(desk, gate, monkeypatch):
    monkeypatch.setattr(TrackJob, "began", lambda job: gate.wait(5))
    entry = desk(point(50, 50, 0))
    assert "waiting for other tracks" not in sentences(entry)[0]


def test_what_a_prompt_finds_is_answered_where_no_track_can_be_begun(desk, gate, monkeypatch):
    gate.set()
    monkeypatch.setattr(background, "_WAITING", 0)
    clicked = desk(point(50, 50, 0))
    assert sorted(by_page(clicked)) == [0] and "Too many tracks wait already" in sentences(clicked)[0]
    worded = desk(typed("the disc"))
    assert sorted(by_page(worded)) == [0, 4, 9] and "Too many tracks wait already" in sentences(worded)[0]


def test_a_correction_is_answered_where_its_track_can_not_be_begun_again(desk, monkeypatch):
    items = by_page(desk(point(50, 50, 0)))
    monkeypatch.setattr(background, "_WAITING", 0)
    entry = desk(point(60, 50, 1, tag="point"), on_screen=items.values())
    assert 1 in by_page(entry) and "Too many tracks wait already" in sentences(entry)[0]


def test_one_of_two_objects_is_tracked_anew_and_the_other_goes_on(desk, services, gate):
    one, other = drawn(mask_at(20), 0), drawn(mask_at(60), 0, "Object 2")
    items = regions(desk(typed("track"), on_screen=[one, other]))
    names = {item["value"]["brushlabels"][0]: object_of(item) for item in items}
    again = desk(point(20, 30, 1), on_screen=[one, other, *items])
    gate.set()
    wait_for(lambda: not services.tracks.running)
    screen = [one, other, *items, *regions(again)]
    entry = desk(point(95, 50, 9, "Object 2", tag="point"), on_screen=screen)
    assert max(by_page(entry, names["Object 2"])) == PAGES - 1


def test_pages_that_were_tracked_and_are_gone_now(desk, services, gate, pictures):
    items = by_page(desk(point(50, 50, 0)))
    gate.set()
    wait_for(lambda: not services.tracks.running)
    for page in (2, 7):  # one that was accepted, and one that nobody was told of
        del pictures.files[f"small/{page}.png"]
    for file in Path(services.settings.media_cache_dir).glob("*.media"):
        file.unlink()
    entry = desk(point(70, 50, 9, "Object 2", tag="point"), on_screen=items.values())
    name = object_of(items[0])
    assert sorted(by_page(entry, name)) == [4, 5, 6, 8, 9]
    assert "The masks on page 8 can't be shown" in sentences(entry)[0]
    tracked = desk(typed("track"), on_screen=items.values())
    assert 3 in by_page(tracked, name) and 2 not in by_page(tracked, name), "what stands there stays"


def test_two_people_who_begin_with_the_same_masks_have_a_track_each(app, services, gate):
    ann, bob = (Desk(app.test_client(), user=f"{name}@example.com") for name in ("ann", "bob"))
    screen = [drawn(mask_at(20), 0)]
    ann(typed("track"), on_screen=screen)
    assert "tracked" in sentences(bob(typed("track"), on_screen=screen))[0]
    assert services.tracks.running == 2
    assert "stopped" in sentences(bob(typed("stop"), on_screen=screen))[0]
    assert services.tracks.running == 1, "what one stops goes on for the other"
    gate.set()
    wait_for(lambda: not services.tracks.running)
    assert "tracked 10 pages" in sentences(ann(typed("track"), on_screen=screen))[0]


def test_a_click_that_tracks_leaves_what_was_drawn_by_hand_on_other_pages(desk, services, gate, engine):
    gate.set()
    mine = drawn(mask_at(60), 5)
    items = by_page(desk(typed("track"), on_screen=[mine]))
    engine.corrected.clear()
    entry = desk(point(45, 40, 6), on_screen=[mine, *items.values()])
    wait_for(lambda: not services.tracks.running)
    assert 6 in by_page(entry, object_of(items[6])) and 5 not in by_page(entry)
    assert {page for page, *_ in engine.corrected} == {5, 6}, "the object is known on both pages"
