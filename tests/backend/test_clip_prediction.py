"""Opening a task of pages: the labels' names over the whole clip, only where the configuration asks for that."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from clip_desk import PAGES, WIDTH, Desk, moved
from fake_engine import CATEGORY_SCORE
from label_studio_sdk.label_interface import LabelInterface
from picture_server import picture_bytes
from prompting import edited, object_of
from reading import pixels, regions, sentences
from test_clip_words import NAMED, by_object, labels_of, words

from backend.app import close_services, create_app
from x2sam.inference.scheduler import Priority

HINTED = NAMED.replace('<BrushLabels name="mask"', '<BrushLabels name="mask" preannotate="instance"')


class Opener:
    """Opens a task, or several, as the data manager does."""

    def __init__(self, client, xml=HINTED):
        self.client, self.xml = client, xml

    def __call__(self, *ids, pages=PAGES):
        frames = [f"/data/local-files/?d=small/{page}.png" for page in range(pages)]
        tasks = [{"id": number, "data": {"frames": frames}} for number in ids or (5,)]
        body = {"tasks": tasks, "project": "1.1", "label_config": self.xml, "params": {"context": None}}
        answer = self.client.post("/predict", json=body)
        assert answer.status_code == 200, answer.json
        for entry in answer.json["results"]:
            if "result" in entry:
                assert not LabelInterface(self.xml).validate_prediction(entry, return_errors=True)
        return answer.json["results"]


@pytest.fixture(autouse=True)
def small(pictures):
    pictures.files["small"] = picture_bytes(WIDTH, 48)


@pytest.fixture
def opened(client):
    return Opener(client)


def test_opening_a_clip_fills_all_pages_with_objects(opened, engine):
    (entry,) = opened()
    objects = by_object(entry)
    assert len(objects) == 2 and all(sorted(pages) == list(range(PAGES)) for pages in objects.values())
    assert sorted(map(str, labels_of(entry).values())) == ["{'Car'}", "{'Person'}"]
    for pages in objects.values():
        np.testing.assert_array_equal(pixels(pages[3]), moved(pixels(pages[0]), 3))
    assert entry["score"] == pytest.approx(CATEGORY_SCORE, abs=0.05)
    assert "Found 2 objects for “Car, Person”" in sentences(entry)[0]
    assert {priority for priority, _ in engine.urgency} == {Priority.BATCH}


def test_only_where_the_configuration_asks_for_it(client, engine):
    for xml in (NAMED, HINTED.replace('"instance"', '"off"')):
        (entry,) = Opener(client, xml)()
        assert "result" not in entry
    assert not engine.asked


def test_a_hint_that_says_nothing(client):
    body = {"tasks": [{"id": 5, "data": {"frames": ["/data/local-files/?d=small/0.png"] * 3}}], "project": "1.1"}
    body |= {"label_config": HINTED.replace('"instance"', '"yes"'), "params": {"context": None}}
    answer = client.post("/predict", json=body)
    assert answer.status_code == 422 and "preannotate" in str(answer.json)


def test_stuff_is_one_object(client, engine):
    xml = HINTED.replace('"instance"', '"panoptic"').replace('value="Person"', 'value="Person" kind="stuff"')
    (entry,) = Opener(client, xml)()
    assert len(by_object(entry)) == 2
    assert engine.asked[0][2].categories == ("Car", "sem: Person")


def test_nothing_found_leaves_nothing(opened, engine):
    """An empty prediction would keep Label Studio from asking again."""
    engine.in_sight = lambda category: ()
    (entry,) = opened()
    assert "result" not in entry


def test_the_same_clip_gets_the_same_ids(opened):
    (first,), (again,) = opened(), opened()
    assert {item["id"] for item in regions(first)} == {item["id"] for item in regions(again)}
    (other,) = opened(6)
    assert not set(by_object(first)) & set(by_object(other))


def test_one_page_is_a_picture(opened, engine):
    (entry,) = opened(pages=1)
    assert len(regions(entry)) == 2 and not engine.walked


def test_what_was_filled_is_no_persons(opened, engine):
    (entry,) = opened()
    items = regions(entry)
    mine = next(item for item in items if item["item_index"] == 6)
    mine = edited(mine, lambda mask: mask.__setitem__(np.s_[:24], False))
    name = object_of(mine)
    screen = [mine if item["id"] == mine["id"] else item for item in items if object_of(item) == name]
    engine.corrected.clear()
    again = by_object(Desk(opened.client, HINTED)(words("track"), on_screen=screen))
    assert sorted(again[name]) == [page for page in range(PAGES) if page != 6]
    assert {page for page, *_ in engine.corrected} == {6}, "all else is made to fit the one mask that is a person's"
    np.testing.assert_array_equal(pixels(again[name][7]), moved(pixels(mine), 1))


# time


@pytest.fixture
def slow(settings, engine, pictures):
    """Time for a few pages."""
    app = create_app(replace(settings, track_seconds=0.6, batch_seconds=0.6), lambda: engine)
    app.extensions["x2sam"].engines.wait(5)
    engine.on_page = lambda page: time.sleep(0.1)
    yield Opener(app.test_client())
    close_services(app.extensions["x2sam"])


def test_what_does_not_fit_goes_on_in_the_background(slow):
    (entry,) = slow()
    assert "result" not in entry, "a prediction is stored once: half of it would stay half"
    end = time.monotonic() + 20
    while "result" not in entry:
        assert time.monotonic() < end
        time.sleep(0.2)
        (entry,) = slow()
    assert all(sorted(pages) == list(range(PAGES)) for pages in by_object(entry).values())
    assert len(by_object(entry)) == 2


def test_a_batch_keeps_to_its_time(slow):
    begun = time.monotonic()
    entries = slow(*range(10, 20))
    assert len(entries) == 10 and time.monotonic() - begun < 5
