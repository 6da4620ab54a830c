"""A session that several people, or a track and a person, use at the same time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from x2sam.errors import CancelledError, FramesError
from x2sam.inference.scheduler import Priority
from x2sam.structures import Point, Prompt

CLICK, MORE = Prompt(points=(Point(20, 20),)), Point(30, 35)
CLIP = np.random.default_rng(0).integers(0, 256, (6, 60, 80, 3), np.uint8)


@pytest.fixture(params=["published", "sketching"])
def engine(request, build_engine, tiny_model, sketching_model):
    return build_engine(tiny_model if request.param == "published" else sketching_model, snap=False)


@pytest.fixture
def video(engine):
    return engine.open(CLIP)


def wait_until_something_waits(session) -> None:
    until = time.monotonic() + 10
    while not session.engine.scheduler.waiting:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_a_click_gets_in_between_two_frames_of_a_track(video, monkeypatch):
    name = video.segment(CLICK, 0)[0].object_id
    log, reached, queued = [], threading.Event(), threading.Event()
    later, answer = video.looking.later_features, video.rounds.answer_all

    def frame_features(frame):
        log.append(frame)
        if frame == 2:  # on the device's thread: hold it until the click waits
            reached.set()
            assert queued.wait(10)
        return later(frame)

    monkeypatch.setattr(video.looking, "later_features", frame_features)
    monkeypatch.setattr(video.rounds, "answer_all", lambda *args: log.append("click") or answer(*args))
    with ThreadPoolExecutor(2) as pool:
        track = pool.submit(lambda: [found.frame for found in video.track([name])])
        assert reached.wait(10)
        click = pool.submit(video.segment, Prompt(points=(MORE,)), 0)
        wait_until_something_waits(video)
        queued.set()
        assert track.result(30) == [0, 1, 2, 3, 4, 5] and len(click.result(30)) == 1
    assert log == [1, 2, "click", 3, 4, 5]


def test_a_newer_click_replaces_a_waiting_one(video):
    held, go = threading.Event(), threading.Event()
    with ThreadPoolExecutor(3) as pool:
        pool.submit(video.engine.run, lambda: (held.set(), go.wait(10)))
        assert held.wait(10)
        older = pool.submit(video.segment, CLICK, 0, None, "ann")
        wait_until_something_waits(video)
        newer = pool.submit(video.segment, Prompt(points=(MORE,)), 0, None, "ann")
        with pytest.raises(CancelledError):
            older.result(10)
        go.set()
        assert len(newer.result(30)) == 1


def test_a_late_round_of_an_older_click_does_not_replace_the_newer_one(video, monkeypatch):
    """The older request has two rounds; while the first one runs a newer request queues up."""
    held, go = threading.Event(), threading.Event()
    answer = video.rounds.answer_all

    def slow_first(*args):
        if not held.is_set():
            held.set()
            assert go.wait(10)
        return answer(*args)

    monkeypatch.setattr(video.rounds, "answer_all", slow_first)
    points = (Point(20, 20), MORE, Point(50, 40, False))
    with ThreadPoolExecutor(2) as pool:
        older = pool.submit(video.segment, Prompt(points=points[:2]), 0, None, "ann")
        assert held.wait(10)
        newer = pool.submit(video.segment, Prompt(points=points), 0, None, "ann")
        wait_until_something_waits(video)
        go.set()
        with pytest.raises(CancelledError):
            older.result(10)
        assert len(newer.result(30)) == 1


def test_sessions_may_be_asked_from_many_threads(engine):
    prompts = [Prompt(points=(Point(10 + 5 * i, 10 + 4 * i),), object_id=f"o{i}") for i in range(8)]
    expected = [engine.open(CLIP[0]).segment(p) for p in prompts]
    session = engine.open(CLIP[0])
    with ThreadPoolExecutor(8) as pool:
        for (found,), (alone,) in zip(pool.map(session.segment, prompts), expected, strict=True):
            # what waits together is answered together, which is the same but for the last digits
            assert np.mean(found.mask != alone.mask) < 1e-3 and found.score == pytest.approx(alone.score, abs=1e-5)


def test_priorities_reach_the_scheduler(video, monkeypatch):
    seen, scheduler = [], video.engine.scheduler
    run = scheduler.run_all
    monkeypatch.setattr(scheduler, "run_all", lambda jobs, how, *rest: seen.append(how) or run(jobs, how, *rest))
    name = video.segment(CLICK)[0].object_id
    video.segment(Prompt(text="a cat"))
    video.segment(Prompt(points=(MORE,)), priority=Priority.BATCH)
    next(iter(video.track([name])))
    assert seen == [Priority.CLICK, Priority.TEXT, Priority.BATCH, Priority.TRACK]


class FarFrames:
    """Frames from a place that takes time: notes which threads had to go there."""

    def __init__(self, told: bool):
        self.threads: set[str] = set()
        if told:
            self.digest = lambda frame: self._came() or f"frame {frame}"

    def __len__(self) -> int:
        return len(CLIP)

    def __getitem__(self, frame: int) -> np.ndarray:
        self._came()
        return CLIP[frame]

    def _came(self) -> None:
        self.threads.add(threading.current_thread().name)


@pytest.mark.parametrize("told", [True, False], ids=["by content", "by place"])
def test_the_device_never_waits_for_frames_to_come(build_engine, tiny_model, told):
    frames = FarFrames(told)
    with build_engine(tiny_model, snap=False, generate_limit=4) as engine:
        session = engine.open(frames, key="far")
        session.prepare(1)
        name = session.segment(CLICK, 0)[0].object_id
        session.segment(Prompt(text="the circle"), 2)
        session.chat("what is it?", 3)
        session.correct(4, "drawn", np.ones(session.size(4), bool))
        assert len(list(session.track([name, "drawn"], direction="both"))) == len(CLIP)
        # whoever asked, and the thread that reads frames of tracks ahead
        others = frames.threads - {threading.current_thread().name}
        assert {name.rpartition("_")[0] for name in others} == {"x2sam-ahead"}
        assert not session.looking._held


def test_a_frame_that_does_not_come_leaves_nothing_held(engine):
    session = engine.open(CLIP)
    with pytest.raises(FramesError), session.looking.hold([0, 1, 99]):
        pass
    assert not session.looking._held
