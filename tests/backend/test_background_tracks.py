"""Tracks that go on while nobody waits: news, stop, lock, corrections, other people, restarts, faults, fairness."""

from __future__ import annotations

import errno
import itertools
import os
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clip_desk import HEIGHT, PAGES, WIDTH, Desk, by_page, drawn, moved, point, typed, wait_for
from fake_engine import FakeEngine, FakeSession
from picture_server import picture_bytes
from prompting import draft, edited, object_of
from reading import pixels, regions, sentences
from video_clips import write_clip

from backend import background
from backend.app import close_app, create_app
from backend.carried import Carried, Known
from backend.journal import Journal
from backend.journal_tracks import TrackRecord, state_rows
from backend.remembered import PackedMask
from backend.track_job import TrackJob
from backend.tracking import Reach
from backend.video_addresses import frame_address
from backend.video_library import VideoLibrary
from x2sam.errors import FramesError
from x2sam.inference.scheduler import Priority, Scheduler

STOP = 4  # the first page that waits to be let through


@pytest.fixture
def pictures(pictures):
    for page in range(100):
        pictures.files[f"small/{page}.png"] = picture_bytes(WIDTH, HEIGHT)
    return pictures


class Backend:
    """An app that has little time for a track, and can be started again. Tracks wait at page ``STOP`` to be let on."""

    def __init__(self, settings, engine):
        self.settings, self.engine = replace(settings, track_seconds=0.4), engine
        self.open = threading.Event()
        engine.on_page = lambda page: page < STOP or self.open.wait(10)
        self.start()

    def start(self):
        self.app = create_app(self.settings, lambda: self.engine)
        self.services = self.app.extensions["x2sam"]
        self.services.engines.wait(5)

    def close(self):
        self.open.set()
        close_app(self.app)

    def restart(self):
        self.close()
        self.start()

    def desk(self, user="ann@example.com"):
        return Desk(self.app.test_client(), user=user)

    def wait_idle(self):
        self.open.set()
        wait_for(lambda: not self.services.tracks.running)

    def number(self, name):
        (line,) = (line for line in self.services.metrics.text().decode().splitlines() if line.startswith(f"{name} "))
        return float(line.split()[1])


@pytest.fixture
def backend(settings, engine, pictures, monkeypatch):
    backend, wait = Backend(settings, engine), TrackJob.wait

    def wait_on_any_machine(job, seconds, stopping=lambda: False):
        """A slow machine gets to the page where tracks wait, or to the end, too."""
        progress = wait(job, seconds, stopping)
        if progress.begun and not stopping() and not job.cancelled:
            wait_for(lambda: not job.running or (not backend.open.is_set() and job.progress().done >= STOP))
        return job.progress()

    monkeypatch.setattr(TrackJob, "wait", wait_on_any_machine)
    yield backend
    backend.close()


@pytest.fixture
def desk(backend):
    return backend.desk()


def eraser(mask):
    mask[:, : WIDTH // 2 + 6] = False


# progress


def test_it_goes_on_and_its_masks_come_with_the_next_prompt(backend, desk):
    first = point(50, 50, 0)
    entry = desk(first)
    assert re.search(r"tracked 4 of 10 pages, \d s left\. It goes on: type track", sentences(entry)[0])
    items = by_page(entry)
    assert sorted(items) == [0, 1, 2, 3]
    assert backend.number("x2sam_tracks_running") == 1
    backend.wait_idle()
    other = desk(point(70, 50, 9, "Object 2", tag="point"), on_screen=items.values())
    name = object_of(items[0])
    news = by_page(other, name)
    assert sorted([*items, *news]) == list(range(PAGES)), "what was told before and accepted is not told again"
    assert "Object 1: tracked 10 pages." in sentences(other)[0]
    for page, item in news.items():
        np.testing.assert_array_equal(pixels(item), moved(pixels(items[0]), page))
    screen = [*items.values(), *news.values()]
    last = desk(point(72, 50, 9, "Object 2", tag="point"), on_screen=screen)
    assert not by_page(last, name) and "tracked" not in sentences(last)[0], "news are told once"
    deleted = desk(point(73, 50, 9, "Object 2", tag="point"), on_screen=[i for i in screen if i["item_index"] != 5])
    assert not by_page(deleted, name), "what a person deleted does not come back"
    assert backend.number("x2sam_track_pages_total") == PAGES - 1 and backend.number("x2sam_journal_bytes") > 0


def test_nothing_accepted_all_comes_again(backend, desk):
    first = point(50, 50, 0)
    items = by_page(desk(first))
    backend.wait_idle()
    other = by_page(desk(point(70, 50, 9, "Object 2", tag="point"), on_screen=[first]), object_of(items[0]))
    assert sorted(other) == list(range(1, PAGES)), "a new answer takes suggestions off the screen"


def test_a_page_that_a_person_worked_on_meanwhile_is_left_alone(backend, desk):
    items = by_page(desk(point(50, 50, 0)))
    mine = edited(items[0] | {"item_index": 7, "id": f"{object_of(items[0])}-0007"}, eraser)
    backend.wait_idle()
    screen = [*items.values(), mine]
    news = by_page(desk(point(70, 50, 9, "Object 2", tag="point"), on_screen=screen), object_of(items[0]))
    assert 7 not in news and {5, 6, 8} <= news.keys()
    final = by_page(desk(typed("track"), on_screen=[*screen, *news.values()]))
    assert 7 not in final


def test_waiting_for_others(settings, engine, pictures):
    backend = Backend(replace(settings, tracks=1), engine)
    try:
        desk = backend.desk()
        desk(point(50, 50, 0))
        second = desk(point(20, 50, 0, "Object 2"))
        assert "waiting for other tracks" in sentences(second)[0]
        assert backend.services.tracks.running == 2
        backend.wait_idle()
    finally:
        backend.close()


# commands


def test_stop_keeps_what_was_done(backend, desk, engine):
    items = by_page(desk(point(50, 50, 0)))
    threading.Timer(0.2, backend.open.set).start()  # within a page a track can't be stopped
    stopped = desk(typed("stop"), on_screen=items.values())
    assert "tracked 4 of 10 pages and stopped; type track to go on" in sentences(stopped)[0]
    assert sorted(by_page(stopped)) == [1, 2, 3]
    assert not backend.services.tracks.running
    assert sentences(desk(typed("cancel"), on_screen=items.values())) == [
        "There is nothing to stop: none of your tracks runs here."
    ]
    engine.walked.clear()
    whole = by_page(desk(typed("track"), on_screen=items.values()))
    assert sorted({0, *whole}) == list(range(PAGES))
    assert engine.recalled == [(page, object_of(items[0])) for page in (1, 2, 3)]


def test_stop_in_the_middle_of_a_page_that_takes_long(backend, desk, monkeypatch):
    monkeypatch.setattr("backend.carrying._STOP_SECONDS", 0.05)
    items = by_page(desk(point(50, 50, 0)))
    stopped = desk(typed("stop"), on_screen=items.values())
    assert "tracked 4 of 10 pages and stopped; type track to go on" in sentences(stopped)[0]
    assert sorted(by_page(stopped)) == [1, 2, 3]
    backend.wait_idle()
    assert "tracked 10 pages." in sentences(desk(typed("track"), on_screen=items.values()))[0]


def test_lock_one_page_and_all(backend, desk):
    items = by_page(desk(point(50, 50, 0)))
    backend.wait_idle()
    items |= by_page(desk(typed("track"), on_screen=items.values()))
    locked = desk(typed("lock", 4), on_screen=items.values())
    assert sentences(locked) == ["Locked on page 5: these masks stay as they are."] and not regions(locked)
    assert "nothing to lock on page 5" in sentences(desk(typed("lock", 4), on_screen=items.values()))[0]
    desk(typed("track"), on_screen=items.values())
    backend.wait_idle()
    again = by_page(desk(typed("track"), on_screen=items.values()))
    assert sorted(again) == [1, 2, 3, 5, 6, 7, 8, 9], "a locked mask does not come back"
    entry = desk(typed("lock all", 4), on_screen=items.values())
    assert sentences(entry) == ["Locked on pages 2-4 and 6-10: these masks stay as they are."]
    assert "stay as they are" in sentences(desk(typed("track"), on_screen=items.values()))[0]
    backend.restart()
    assert "stay as they are" in sentences(backend.desk()(typed("track"), on_screen=items.values()))[0]


def test_lock_what_waits_to_be_accepted(backend, desk, engine):
    engine.on_page = lambda page: None
    prompt = point(50, 50, 0)
    items = by_page(desk(prompt))
    entry = desk(typed("lock"), on_screen=[prompt])
    assert sorted(by_page(entry)) == list(range(PAGES)), "it is shown again, since the answer takes it off the screen"
    assert "Locked on page 1" not in sentences(entry)[0]
    engine.corrected.clear()
    desk(typed("track"), on_screen=[prompt])
    assert not engine.corrected
    np.testing.assert_array_equal(pixels(by_page(entry)[6]), pixels(items[6]))


# corrections


def test_a_click_on_what_is_being_tracked_begins_it_again(backend, desk, engine):
    first = point(50, 50, 0)
    items = by_page(desk(first))
    entry = desk(point(60, 50, 1, tag="point"), on_screen=items.values())
    assert "It is being tracked again with this correction" in sentences(entry)[0]
    corrected = by_page(entry)[1]
    screen = [items[0], corrected]
    backend.wait_idle()
    whole = by_page(desk(typed("track"), on_screen=screen))
    assert sorted(whole) == list(range(2, PAGES))
    for page, item in whole.items():
        np.testing.assert_array_equal(pixels(item), moved(pixels(corrected), page - 1))


def test_pages_with_new_addresses_are_the_same_pages(backend, tmp_path, monkeypatch):
    """The key of their addresses is replaced, and the server has another name, while a track runs."""
    library = VideoLibrary(tmp_path / "state")
    video = library.add(write_clip(tmp_path / "clip.mp4", PAGES))
    desk = backend.desk()

    def addresses(base):
        return [frame_address(base, library.signing_key(), video.id, page) for page in range(PAGES)]

    desk.addresses = addresses("http://old.test")
    items = by_page(desk(point(50, 50, 0, original_height=video.size[0])))
    assert sorted(items) == list(range(STOP))
    library.add_key()
    assert not library.drop_old_keys() and len(library.keys()) == 1
    desk.addresses = addresses("https://new.test")
    backend.wait_idle()
    kept, reused = [], background._reused
    monkeypatch.setattr(background, "_reused", lambda *given: kept.append(reused(*given)) or kept[-1])
    again = desk(typed("track"), on_screen=items.values())
    assert "tracked 10 pages." in sentences(again)[0]
    assert sorted({0, *by_page(again)}) == list(range(PAGES))
    assert set(range(1, STOP)) <= set(kept[0]), "what was done is not walked again"


def test_what_a_correction_does_not_touch_is_not_walked_again(backend, engine):
    desk, pages = backend.desk(), 40
    engine.on_page = lambda page: None
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 20:50] = True
    known = [drawn(moved(mask, page), page) for page in (0, 10, 20, 30)]
    items = by_page(desk(typed("track"), on_screen=known, pages=pages))
    backend.wait_idle()
    engine.walked.clear()
    screen = [*known, *(item for page, item in items.items() if page != 25), edited(items[25], eraser)]
    again = by_page(desk(typed("track"), on_screen=screen, pages=pages))
    assert sorted(again) == [page for page in range(pages) if page not in (0, 10, 20, 25, 30)]
    walked = {page for _, page in engine.walked}
    assert walked == {0, 10, *range(16, 31)}, "known pages, a few before, and those between 20 and 30"
    for page in (*range(1, 10), *range(31, 40)):
        np.testing.assert_array_equal(pixels(again[page]), pixels(items[page]))
    assert (pixels(again[24]) != pixels(items[24])).any()


def test_news_of_an_earlier_track_count_no_more(backend, desk):
    items = by_page(desk(point(50, 50, 0)))
    backend.wait_idle()  # pages 4 to 9 were told to nobody
    mine = edited(items[2], lambda mask: mask.__setitem__(np.s_[:, :84], False))
    screen = [items[0], items[1], mine, items[3]]
    whole = by_page(desk(typed("track"), on_screen=screen))
    np.testing.assert_array_equal(pixels(whole[8]), moved(pixels(mine), 6))
    click, screen = point(70, 50, 9, "Object 2", tag="point"), [*screen[:3], *whole.values()]
    assert not by_page(desk(click, on_screen=screen), object_of(items[0]))
    backend.restart()
    assert not by_page(backend.desk()(click, on_screen=screen), object_of(items[0]))


# other people


def test_others_get_nothing_of_it(backend, desk):
    items = by_page(desk(point(50, 50, 0), on_screen=[point(1, 1, 0, tag="point")]))
    bob = backend.desk("bob@example.com")
    theirs = point(20, 50, 3, tag="point")
    assert sentences(bob(typed("stop"), on_screen=[theirs]))[0].startswith("There is nothing to stop")
    assert backend.services.tracks.running == 1
    backend.wait_idle()
    assert not by_page(bob(theirs, on_screen=[point(2, 2, 1, tag="point")]), object_of(items[0]))
    assert by_page(desk(point(70, 50, 9, "Object 2", tag="point"), on_screen=items.values()), object_of(items[0]))


def test_the_prediction_of_a_task_that_is_opened_again(backend, desk):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 20:50] = True
    mine = drawn(mask, 0)
    desk(typed("track"), on_screen=[mine])
    assert "result" not in desk.open(), "Label Studio stores a prediction once: half of it would stay half"
    backend.wait_idle()
    opened = desk.open()
    assert sorted(by_page(opened)) == list(range(1, PAGES)), "what a person drew is not told to others"
    assert 0 < opened["score"] <= 1
    accepted = regions(opened)
    again = by_page(desk(typed("track"), on_screen=[mine, *accepted]))
    assert sorted(again) == list(range(1, PAGES)), "accepted as it was predicted, it is still ours"
    backend.restart()
    assert sorted(by_page(backend.desk().open())) == list(range(1, PAGES))
    bob = backend.desk("bob@example.com")
    bob(typed("track"), on_screen=[drawn(mask[::-1], 3)])
    backend.wait_idle()
    assert "result" not in bob.open(), "of two people neither gets the other's"


# restarts


def test_a_server_that_is_stopped_leaves_its_tracks_to_the_next(backend, desk, engine):
    items = by_page(desk(point(50, 50, 0), pages=30))
    threading.Timer(0.3, backend.open.set).start()
    backend.close()
    assert [page for _, page in engine.walked] == [0, 1, 2, 3, 4], "it ends after the page that it is at"
    engine.walked.clear()
    backend.start()
    backend.wait_idle()
    assert engine.recalled == [(page, object_of(items[0])) for page in (1, 2, 3)]
    whole = by_page(backend.desk()(typed("track"), on_screen=items.values(), pages=30))
    assert sorted({0, *whole}) == list(range(30))
    for page, item in whole.items():
        np.testing.assert_array_equal(pixels(item), moved(pixels(items[0]), page))


def test_a_track_that_comes_from_the_task_before_goes_on_after_a_restart(backend, engine):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 20:50] = True
    one = Carried("obj0123456789", "Object 1", {-2: Known(PackedMask.of(mask))}, frozenset({-2}))
    own, before = ([f"/data/local-files/?d=small/{n}.png" for n in numbers] for numbers in (range(10), (98, 99)))
    record = TrackRecord("id", "5", None, tuple(own), (one,), Reach("forward"), tuple(before), "fake-0001")
    backend.services.tracks.take_up(record, lambda job: True)
    wait_for(lambda: len(engine.walked) >= STOP)  # the engine counts the earlier pages, too
    threading.Timer(0.2, backend.open.set).start()
    backend.close()
    assert len(engine.walked) < 12
    backend.start()
    backend.wait_idle()
    (job,) = backend.services.tracks.of_task("5")
    found = job.progress().found
    assert sorted(found) == list(range(10))
    for page, masks in found.items():
        np.testing.assert_array_equal(masks["obj0123456789"].mask.unpack(), moved(mask, page + 2))


def test_after_a_restart_edits_are_told_from_what_was_proposed(backend, desk, engine):
    engine.on_page = lambda page: None
    items = by_page(desk(point(50, 50, 0)))
    backend.restart()
    mine = edited(items[6], eraser)
    again = by_page(backend.desk()(typed("track"), on_screen=[*(items[p] for p in items if p != 6), mine]))
    assert sorted(again) == [1, 2, 3, 4, 5, 7, 8, 9]
    np.testing.assert_array_equal(pixels(again[5]), moved(pixels(mine), -1))


def test_another_model_makes_all_of_it_anew(backend, desk, engine):
    engine.on_page = lambda page: None
    items = by_page(desk(point(50, 50, 0)))
    engine.version = "fake-0002"
    backend.restart()
    desk = backend.desk()
    engine.walked.clear()
    assert sorted(by_page(desk(typed("track"), on_screen=items.values()))) == list(range(1, PAGES))
    assert [page for _, page in engine.walked] == list(range(PAGES))


def test_other_pages_in_the_task_get_nothing_of_it(backend, desk, engine):
    items = by_page(desk(point(50, 50, 0)))
    backend.wait_idle()
    click = point(70, 50, 2, "Object 2", tag="point")
    assert not by_page(desk(click, on_screen=items.values(), pages=PAGES - 1), object_of(items[0]))
    assert "result" not in desk.open(pages=PAGES - 1)
    assert by_page(desk(click, on_screen=items.values()), object_of(items[0]))


def test_after_a_restart_clicks_go_on_correcting(backend, desk, engine):
    first = point(50, 50, 2, tag="point")
    desk(first)
    backend.restart()
    entry = backend.desk()(first, point(60, 50, 2, tag="point"))
    assert len(regions(entry)) == 1 and len(engine.asked[-1][2].points) == 2
    item = regions(entry)[0]
    backend.restart()
    backend.desk()(point(62, 50, 2, tag="point"), on_screen=[item])
    assert len(engine.asked[-1][2].points) == 3, "the clicks that accepting took away are remembered"


def test_a_track_that_never_gets_further_is_given_up(backend, desk, caplog):
    items = by_page(desk(point(50, 50, 0)))
    backend.close()
    journal = Journal(Path(backend.settings.state_dir), 1 << 30, 86_400.0)
    ((name, state),) = journal.read("SELECT id, state FROM track")
    assert state == "running"
    journal.note(state_rows(name, "running", tries=8))
    journal.close()
    backend.start()
    assert not backend.services.tracks.running
    backend.engine.on_page = lambda page: None
    again = backend.desk()(typed("track"), on_screen=items.values())
    assert sorted({0, *by_page(again)}) == list(range(PAGES)), "asked for it tries again"


# faults


def test_a_page_host_that_goes_away(backend, desk, pictures):
    items = by_page(desk(point(50, 50, 0)))
    pages = {name: pictures.files.pop(name) for name in [f"small/{page}.png" for page in range(6, PAGES)]}
    backend.wait_idle()
    entry = desk(typed("track"), on_screen=items.values())
    (sentence,) = sentences(entry)
    assert "tracked 6 of 10 pages." in sentence and "has no such picture" in sentence
    assert sorted(by_page(entry)) == [1, 2, 3, 4, 5], "what was done before it is kept"
    pictures.files |= pages
    assert "tracked 10 pages." in sentences(desk(typed("track"), on_screen=items.values()))[0]


def test_label_studio_can_not_be_reached(backend, desk, pictures):
    prompt = point(50, 50, 0)
    items = by_page(desk(prompt))
    pictures.close()
    backend.wait_idle()
    (sentence,) = sentences(desk(typed("track"), on_screen=items.values()))
    assert "tracked 4 of 10 pages." in sentence and "can't connect" in sentence


def test_no_room_for_pages(backend, desk, monkeypatch):
    """The disk of the cache is full from the fifth page on, and has room again later."""
    items = by_page(desk(point(50, 50, 0)))
    with monkeypatch.context() as patch:
        patch.setattr("backend.file_cache.os.replace", no_room)
        backend.wait_idle()
        (sentence,) = sentences(desk(typed("track"), on_screen=items.values()))
        assert "tracked 4 of 10 pages." in sentence and "No space left on device" in sentence
        assert "X2SAM_CACHE_DIR" in sentence and str(backend.settings.media_cache_dir) not in sentence
    again = desk(typed("track"), on_screen=items.values())
    assert "tracked 10 pages." in sentences(again)[0]
    assert sorted({0, *by_page(again)}) == list(range(PAGES))


def no_room(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_page_that_can_not_be_decoded_is_told_and_gone_on_with_later(backend, desk, engine):
    broken = {7}

    def on_page(page):
        if page in broken:
            raise FramesError("Page 8 can't be decoded; import the clip again.")

    engine.on_page = on_page
    entry = desk(point(50, 50, 0))
    items = by_page(entry)
    assert sorted(items) == list(range(7))
    assert "tracked 7 of 10 pages. Page 8 can't be decoded; import the clip again." in sentences(entry)[0]
    broken.clear()
    engine.walked.clear()
    again = desk(typed("track"), on_screen=items.values())
    assert sorted(by_page(again)) == list(range(1, PAGES)) and "tracked 10 pages." in sentences(again)[0]
    assert {page for _, page in engine.walked} == {0, *range(2, PAGES)}, "what was done is not walked again"


def test_a_click_and_its_mask_are_kept_when_tracking_fails_at_once(backend, desk, engine):
    def on_page(page):
        raise FramesError("This page can't be decoded.")

    engine.on_page = on_page
    entry = desk(point(50, 50, 3))
    assert sorted(by_page(entry)) == [3] and "tracked 1 of 10 pages. This page can't" in sentences(entry)[0]


def test_a_full_disk(backend, desk, engine):
    engine.on_page = lambda page: None
    journal = backend.services.journal
    writable(journal, False)
    entry = desk(point(50, 50, 0))
    assert sorted(by_page(entry)) == list(range(PAGES)), "answered from memory"
    assert "can't write its journal" in sentences(entry)[0]
    ready = backend.app.test_client().get("/ready")
    assert ready.status_code == 200 and "can't be written" in ready.json["warnings"][0]
    writable(journal, True)
    entry = desk(point(70, 50, 9, "Object 2", tag="point"), on_screen=regions(entry))
    assert "journal" not in sentences(entry)[0] and not backend.app.test_client().get("/ready").json["warnings"]
    backend.restart()
    assert sorted(by_page(backend.desk().open())) == list(range(PAGES)), "what was owed was written"


def writable(journal, yes):
    connection = journal._file._engine.raw_connection()
    connection.cursor().execute(f"PRAGMA query_only = {int(not yes)}")
    connection.close()


# fairness


class SharedEngine(FakeEngine):
    """The stand-in with the real engine's queue: a page takes ``step`` seconds of the device, a click half of that."""

    step = 0.06

    def __init__(self):
        super().__init__()
        self.scheduler = Scheduler()
        self.order: list[str] = []
        self.steps_before: list[int] = []  # of tracks, that each click waited for

    def open(self, frames, key=None):
        return SharedSession(self, frames, key)

    def close(self):
        self.scheduler.close()


class SharedSession(FakeSession):
    def segment(self, prompt, frame=0, priority=None, replaces=None):
        before = len(self.engine.order)

        def job():
            self.engine.steps_before.append(len(self.engine.order) - before)
            time.sleep(self.engine.step / 2)
            self.engine.order.append("click")
            return super(SharedSession, self).segment(prompt, frame, priority, replaces)

        return self.engine.scheduler.run(job, Priority.CLICK)

    def _carried(self, name, page, step):
        def job():
            time.sleep(self.engine.step)
            self.engine.order.append(name)
            return super(SharedSession, self)._carried(name, page, step)

        return self.engine.scheduler.run(job, Priority.TRACK)


def test_clicks_come_between_and_tracks_take_turns(settings, pictures):
    engine = SharedEngine()
    backend = Backend(settings, engine)
    backend.open.set()
    try:
        ann, bob, eve = (backend.desk(f"{name}@example.com") for name in ("ann", "bob", "eve"))
        names = [object_of(regions(desk(point(x, 50, 0), pages=60))[0]) for desk, x in ((ann, 20), (bob, 70))]
        wait_for(lambda: all(engine.order.count(name) > 3 for name in names))
        begun = len(engine.order)
        engine.steps_before.clear()
        for number in range(6):
            answer = eve(point(40 + number, 50, 1, "Object 2", tag="point"), pages=60)
            assert regions(answer), sentences(answer)
            time.sleep(0.1)
        walked = [name for name in engine.order[begun:] if name != "click"]
        assert len(walked) > 6 and all(one != other for one, other in itertools.pairwise(walked))
        assert len(set(walked)) == 2, "frame by frame, one and the other"
        assert engine.order.count("click") == 8
        # the step that runs when it comes, and seldom one that began while it was being handed over
        assert sorted(engine.steps_before)[3] <= 1 and max(engine.steps_before) <= 2
    finally:
        backend.close()


def test_a_submitted_annotation_is_not_overwritten_by_news(backend, desk):
    items = by_page(desk(point(50, 50, 0)))
    backend.wait_idle()
    submitted = {"id": 9, "completed_by": 1, "result": list(items.values())}
    reopened = draft(*items.values(), annotation=9)
    click = point(70, 50, 9, "Object 2", tag="point")
    news = by_page(desk(click, annotations=[submitted], drafts=[reopened]), object_of(items[0]))
    assert news and not set(news) & set(items)
