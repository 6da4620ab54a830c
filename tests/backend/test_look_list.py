"""The pages to look at first come into a task's ``meta``: which ones, beside what else is there, whatever fails."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from clip_desk import point, wait_for
from clip_project import PAGES, ClipProject, Desk
from fake_engine import FakeEngine
from prompting import object_of
from reading import regions, sentences

from backend import app as app_module
from backend.app import close_app, create_app
from backend.carried import Carried, Known
from backend.errors import BackendError
from backend.label_studio_api import NotThereError
from backend.look_list import MOST, LookLists, Suspect, merged, suspects, worst_first
from backend.remembered import PackedMask

SEEN, GONE = (PackedMask.of(np.full((4, 4), shown)) for shown in (True, False))


class Api:
    """Stands in for the tasks of project 3."""

    def __init__(self, **meta):
        self.meta, self.changes, self.failures = {7: meta}, 0, []
        self.answer = threading.Event()
        self.answer.set()

    def task_meta(self, project, task):
        assert project == 3
        self.answer.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        return self.meta.get(task, {})

    def change_meta(self, task, meta):
        self.changes += 1
        self.meta[task] = dict(meta)

    @property
    def listed(self):
        return [(entry["object"], entry["page"]) for entry in self.meta[7]["x2sam"]["look_at"]]


@pytest.fixture
def write():
    made = []

    def write(api, pauses=(0.0, 0.0, 0.0)):
        made.append(LookLists(lambda: api, pauses))
        return made[-1]

    yield write
    for lists in made:
        lists.close()


def about(name, *doubts):
    return [Suspect(page, name, "Dog", doubt, True) for page, doubt in doubts]


def test_the_worst_tenth_and_all_that_is_rather_wrong():
    """Of 20 pages a tenth is two: pages 3 and 9 are the worst, of which only one is more likely wrong than right."""
    doubts = {3: 0.9, 9: 0.4, 12: 0.3}
    made = [Suspect(page, "a", "Dog", doubts.get(page, 0.01), True) for page in range(1, 21)]
    assert [(one.page, one.doubt) for one in worst_first(made)] == [(3, 0.9), (9, 0.4)]
    assert len(worst_first([replace(one, doubt=0.7) for one in made])) == 20
    assert len(worst_first([replace(one, doubt=0.7) for one in made] * 5)) == MOST
    assert worst_first([]) == []


def test_known_pages_are_nobodys_doubt():
    one = Carried("a", "Dog", {0: Known(SEEN)}, frozenset({1}))
    found = {
        0: {"a": Known(SEEN, 0.1)}, 1: {"a": Known(SEEN, 0.1, 0.9)}, 2: {"a": Known(SEEN, 0.2)},
        3: {"a": Known(GONE, 0.0, 0.6)}, 4: {"a": Known(GONE)}, 5: {"a": Known(SEEN, 0.9, float("nan"))}, 6: {},
    }  # fmt: skip
    told = [(s.page, s.doubt, s.seen) for s in suspects([one], found)]
    assert told == [(6, 1.0, True), (3, 0.8, True), (4, 0.6, False)], "pages are counted from 1"


@pytest.mark.parametrize("meta", [None, {}, {"x2sam": 5}, {"x2sam": {"look_at": "?"}}, {"x2sam": {"look_at": [5]}}])
def test_whatever_stood_there(meta):
    assert merged(meta, {"a"}, [{"page": 2, "object": "a", "doubt": 0.5}])["x2sam"]["look_at"] == [
        {"page": 2, "object": "a", "doubt": 0.5}
    ]


def test_other_objects_and_what_others_noted_stay(write):
    api = Api(source="camera 4", x2sam={"batch": 1, "look_at": [{"page": 1, "object": "b", "doubt": 0.7}]})
    lists = write(api)
    lists.note("3", "7", {"a"}, about("a", (4, 0.9), (6, 0.5)))
    assert lists.settle(5)
    assert api.listed == [("a", 4), ("b", 1), ("a", 6)], "the worst first, of all objects"
    assert api.meta[7]["source"] == "camera 4" and api.meta[7]["x2sam"]["batch"] == 1
    lists.note("3", "7", {"a"}, [])
    assert lists.settle(5) and api.listed == [("b", 1)]
    lists.note("3", "7", {"a"}, [])
    assert lists.settle(5) and api.changes == 2, "nothing new, nothing written"


def test_nothing_is_written_about_a_track_without_doubts(write):
    api = Api(source="camera 4")
    lists = write(api)
    lists.note("3", "7", {"a"}, [])
    assert lists.settle(5) and api.meta[7] == {"source": "camera 4"} and not api.changes


def test_tries_again_and_gives_up(write, caplog):
    api = Api()
    api.failures = [BackendError("Label Studio can't be reached"), OSError("broken pipe")]
    lists = write(api)
    lists.note("3", "7", {"a"}, about("a", (4, 0.9)))
    assert lists.settle(5) and api.listed == [("a", 4)]
    api.failures = [BackendError("Label Studio can't be reached")] * 3
    lists.note("3", "7", {"a"}, about("a", (5, 0.9)))
    assert lists.settle(5) and api.listed == [("a", 4)]
    assert "can't be written into a task: Label Studio can't be reached" in caplog.text
    lists.note("3", "7", {"a"}, about("a", (6, 0.9)))
    assert lists.settle(5) and api.listed == [("a", 6)], "the thread lives on"


def test_a_task_that_was_deleted_is_given_up_at_once(write, caplog):
    api = Api()
    api.failures = [NotThereError("Project 3 has no task 7 any more.")]
    lists = write(api, (0.0, 60.0))
    lists.note("3", "7", {"a"}, about("a", (4, 0.9)))
    assert lists.settle(5) and not api.meta[7] and not caplog.text


def test_of_what_waits_the_newest_counts(write):
    api = Api()
    api.answer.clear()
    lists = write(api)
    lists.note("3", "8", {"z"}, about("z", (1, 0.9)))
    for doubt in (0.5, 0.6, 0.7):
        lists.note("3", "7", {"a"}, about("a", (4, doubt)))
    lists.note("3", "7", {"b"}, about("b", (2, 0.8)))
    assert not lists.settle(0.05)
    api.answer.set()
    assert lists.settle(5) and api.changes == 2
    assert [(e["object"], e["doubt"]) for e in api.meta[7]["x2sam"]["look_at"]] == [("b", 0.8), ("a", 0.7)]


def test_without_a_token_or_a_project_nothing_is_asked(write):
    LookLists().note("3", "7", {"a"}, about("a", (4, 0.9)))
    api = Api()
    write(api).note("", "7", {"a"}, about("a", (4, 0.9)))
    write(api).note("3", "seven", {"a"}, about("a", (4, 0.9)))
    assert not api.changes


@pytest.fixture
def place():
    server = ClipProject()
    server.add(7, 0)
    yield server
    server.close()


def test_a_track_that_ended_says_where_to_look(settings, place, monkeypatch):
    api = Api(source="camera 4")
    monkeypatch.setattr(app_module, "LabelStudioApi", lambda _: api)
    settings = replace(settings, label_studio_url=place.url, label_studio_api_key="a" * 40)
    app = create_app(settings, FakeEngine)
    try:
        app.extensions["x2sam"].engines.wait(5)
        told = Desk(app.test_client(), place).ask(7, point(50, 50, 0))
        assert f"tracked {PAGES} pages" in sentences(told)[0]
        wait_for(lambda: "x2sam" in api.meta[7])
    finally:
        close_app(app)
    assert api.meta[7]["source"] == "camera 4"
    # The stand-in is less sure with every page away from the click: the last of six is a tenth of them, rounded up.
    (item,) = [item for item in regions(told) if item["item_index"] == PAGES - 1]
    assert api.meta[7]["x2sam"]["look_at"] == [
        {"page": PAGES, "object": object_of(item), "label": "Object 1", "doubt": round(1 - item["score"], 4),
         "seen": True}
    ]  # fmt: skip
