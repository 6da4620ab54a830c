"""Prompts about one picture that wait at the same time: one pass of the network, each answered as if it were alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from x2sam.errors import BusyError, CancelledError, DeviceError, PromptError
from x2sam.inference.engine import TOGETHER
from x2sam.inference.scheduler import Joint, Priority, Scheduler
from x2sam.model.mask_decoder import Condition, LevelPrediction
from x2sam.stages import watching
from x2sam.structures import Mask, Point, Prompt

SOON = 20.0
SIZE = (60, 80)
PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
CLICKS = [Prompt(points=(Point(10 + 12 * n, 10 + 9 * n),)) for n in range(4)]


def wait_for(condition) -> None:
    until = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@contextmanager
def held(scheduler: Scheduler) -> Iterator[ThreadPoolExecutor]:
    """The device's thread is busy inside; callers for what waits behind it. It goes on when this ends."""
    started, go = threading.Event(), threading.Event()
    with ThreadPoolExecutor(16) as callers:
        callers.submit(scheduler.run, lambda: (started.set(), go.wait(SOON)))
        assert started.wait(SOON)
        try:
            yield callers
        finally:
            go.set()


def waiting_for(scheduler: Scheduler, callers: ThreadPoolExecutor, work, *args) -> Future:
    before = scheduler.waiting
    call = callers.submit(work, *args)
    wait_for(lambda: scheduler.waiting > before)
    return call


# the queue


@pytest.fixture
def scheduler():
    made = Scheduler(limit=8, timeout=SOON, together=3)
    yield made
    made.close()


class Log:
    """Jobs whose work is noted: which items went together, in which order."""

    def __init__(self, scheduler: Scheduler):
        self.scheduler, self.groups = scheduler, []

    def work(self, items: list[str]) -> list[str]:
        self.groups.append(list(items))
        if "bad" in items:
            raise ZeroDivisionError("bad")
        return [item.upper() for item in items]

    def ask(self, item: str, key: str | None = "picture", priority=Priority.CLICK, replaces=None) -> str:
        return self.scheduler.run_all([Joint(key, item, self.work)], priority, replaces)[0]


@pytest.fixture
def log(scheduler):
    return Log(scheduler)


def queued(log: Log, *asks: tuple) -> tuple[list[Future], Log]:
    with held(log.scheduler) as callers:
        calls = [waiting_for(log.scheduler, callers, log.ask, *ask) for ask in asks]
    return calls, log


def test_what_waits_for_the_same_goes_together_in_order_and_up_to_a_number(log):
    calls, _ = queued(log, ("a",), ("b", "other"), ("c",), ("d",), ("e",), ("f", None), ("g", None))
    assert [call.result(SOON) for call in calls] == list("ABCDEFG")
    assert log.groups == [["a", "c", "d"], ["b"], ["e"], ["f"], ["g"]]


def test_who_goes_first_is_not_changed_by_company(log):
    """Only jobs of one priority go together, and a track's frame is not put off by those that come after it."""
    batch, text, track = (priority for priority in (Priority.BATCH, Priority.TEXT, Priority.TRACK))
    calls, _ = queued(
        log, ("b1", "k", batch), ("b2", "k", batch), ("frame", None, track), ("t1", "k", text), ("click", "k"),
        ("t2", "k", text),
    )  # fmt: skip
    for call in calls:
        call.result(SOON)
    assert log.groups == [["click"], ["t1", "t2"], ["frame"], ["b1", "b2"]]


def test_one_that_fails_is_told_and_the_others_are_answered(log):
    calls, _ = queued(log, ("a",), ("bad",), ("c",))
    assert (calls[0].result(SOON), calls[2].result(SOON)) == ("A", "C")
    with pytest.raises(ZeroDivisionError):
        calls[1].result(SOON)
    assert log.groups == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]


def test_a_wrong_number_of_results_is_nobodys_answer(scheduler):
    joint = lambda item: Joint("k", item, lambda items: items[:1])  # noqa: E731
    with held(scheduler) as callers:
        calls = [waiting_for(scheduler, callers, scheduler.run_all, [joint(item)]) for item in "ab"]
    assert [call.result(SOON) for call in calls] == [["a"], ["b"]]


def test_the_latest_click_wins_before_it_goes_together(log):
    with held(log.scheduler) as callers:
        older = waiting_for(log.scheduler, callers, log.ask, "older", "picture", Priority.CLICK, "ann")
        other = waiting_for(log.scheduler, callers, log.ask, "bob's")
        newer = callers.submit(log.ask, "newer", "picture", Priority.CLICK, "ann")
        with pytest.raises(CancelledError):
            older.result(SOON)
    assert (other.result(SOON), newer.result(SOON)) == ("BOB'S", "NEWER")
    assert log.groups == [["bob's", "newer"]]


def test_who_gave_up_is_left_out(log):
    scheduler = log.scheduler
    with held(scheduler) as callers:
        late = callers.submit(scheduler.run_all, [Joint("picture", "late", log.work)], Priority.CLICK, None, 0.05)
        with pytest.raises(BusyError):
            late.result(SOON)
        other = waiting_for(scheduler, callers, log.ask, "other")
    assert other.result(SOON) == "OTHER" and log.groups == [["other"]]


def test_one_caller_may_ask_for_several_at_once(log):
    jobs = [Joint("picture", item, log.work) for item in "abcd"]
    assert log.scheduler.run_all(jobs) == list("ABCD")
    assert log.groups == [["a", "b", "c"], ["d"]]
    assert log.scheduler.run(lambda: log.scheduler.run_all(jobs)) == list("ABCD")  # by a job: one by one, at once


def test_several_find_room_together_or_none_does(log):
    with held(log.scheduler) as callers:
        for number in range(6):
            waiting_for(log.scheduler, callers, log.ask, f"one {number}")
        with pytest.raises(BusyError, match="6 requests wait"):
            log.scheduler.run_all([Joint("picture", item, log.work) for item in "abc"])
        assert log.scheduler.waiting == 6


def test_of_several_the_first_failure_is_told_and_the_rest_is_given_up(log):
    jobs = [Joint(None, item, log.work) for item in ("a", "bad", "c", "d")]
    with pytest.raises(ZeroDivisionError):
        log.scheduler.run_all(jobs)
    assert log.scheduler.waiting == 0
    assert log.scheduler.run(lambda: "alive") == "alive"


def test_a_thread_that_breaks_tells_all_of_them(scheduler):
    def leave(items):
        raise SystemExit(3)

    with held(scheduler) as callers:
        calls = [waiting_for(scheduler, callers, scheduler.run_all, [Joint("k", n, leave)]) for n in range(2)]
    for call in calls:
        with pytest.raises(DeviceError, match="broke"):
            call.result(SOON)
    assert scheduler.vitals().restarts == 1


def test_each_is_told_how_long_it_waited(log):
    def watched(item):
        with watching() as times:
            log.ask(item)
        return times.seconds

    with held(log.scheduler) as callers:
        first = waiting_for(log.scheduler, callers, watched, "a")
        time.sleep(0.05)
        second = waiting_for(log.scheduler, callers, watched, "b")
    assert first.result(SOON)["wait"] - second.result(SOON)["wait"] >= 0.04 and log.groups == [["a", "b"]]


# conditions of different lengths


def condition(classes: int, tokens: int, seed: int) -> Condition:
    draw = lambda *size: torch.randn(1, *size, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    known = lambda count: torch.ones(1, count, dtype=torch.bool)  # noqa: E731
    return Condition(draw(classes + 1, 4), known(classes + 1), draw(tokens, 4), known(tokens), draw(1, 4))


def test_stacked_conditions_are_filled_up_before_the_background():
    short, long = condition(1, 2, 0), condition(3, 5, 1)
    both = Condition.stacked([short, long])
    assert both.shapes == ((4, 4), (4,), (5, 4), (5,), (1, 4))
    assert both.class_mask.tolist() == [[True, False, False, True], [True] * 4]
    assert both.token_mask.tolist() == [[True, True, False, False, False], [True] * 5]
    assert torch.equal(both.classes[0, [0, 3]], short.classes[0]) and torch.equal(both.classes[1], long.classes[0])
    assert torch.equal(both.tokens[0, :2], short.tokens[0]) and torch.equal(both.seg[1], long.seg[0])
    assert Condition.stacked([short]) is short


def test_answers_have_the_classes_of_their_own_question():
    short, long = condition(1, 2, 0), condition(3, 5, 1)
    logits = torch.arange(2 * 1 * 4.0).view(2, 1, 4)
    level = LevelPrediction(torch.zeros(2, 1, 3, 3), logits, torch.zeros(2, 1, 4))
    one, other = level.answers([short, long])
    assert one.class_logits.tolist() == [[[0.0, 3.0]]] and other.class_logits.tolist() == [[[4.0, 5.0, 6.0, 7.0]]]


# pictures


@pytest.fixture(params=["published", "sketching"])
def engine(request, build_engine, tiny_model, sketching_model):
    """Without the last light step, so that masks are the network's own."""
    model = tiny_model if request.param == "published" else sketching_model
    return build_engine(model, snap=False, generate_limit=4, together=4)


@contextmanager
def counted(module: torch.nn.Module) -> Iterator[list[int]]:
    """The batch sizes of a part's calls."""
    calls: list[int] = []
    hook = module.register_forward_hook(lambda m, args, out: calls.append(len(out[-1].mask_logits)))
    try:
        yield calls
    finally:
        hook.remove()


def assert_close(found: list[Mask], alone: list[Mask]) -> None:
    assert len(found) == len(alone)
    for one, other in zip(found, alone, strict=True):
        assert np.mean(one.mask != other.mask) <= 1e-3 and one.score == pytest.approx(other.score, abs=1e-5)
        assert (one.phrase, one.category) == (other.phrase, other.category)


KINDS = {
    "clicks": CLICKS,
    "rounds": [Prompt(points=(Point(20, 20), Point(60, 40, False))), *CLICKS[:2]],
    "drawn": [Prompt(boxes=((5, 5, 40, 50),)), CLICKS[0], Prompt(points=(Point(30, 30),), boxes=((9, 9, 60, 50),))],
    "phrases": [Prompt(text=text) for text in ("the red circle", "a cat", "the very small grey square on the left")],
    "names": [Prompt(categories=names) for names in (("cat",), ("cat", "dog", "sky"), ("a road sign", "sky"))],
    "things and stuff": [Prompt(text="ins: cat; sem: sky"), Prompt(text="ins: dog, cat; sem: road, sky")],
    "all like this": [
        Prompt(task="vgdseg", points=(Point(20, 20),)), Prompt(task="vgdseg", boxes=((5, 5, 40, 50), (50, 9, 70, 40))),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_several_prompts_of_one_caller_are_answered_as_each_alone(engine, kind):
    prompts = KINDS[kind]
    alone = [engine.open(PICTURE, "picture").segment(prompt) for prompt in prompts]
    with counted(engine.model.mask_decoder) as calls:
        found = engine.open(PICTURE, "picture").segment_all([(prompt, 0) for prompt in prompts])
    # a small network is asked for the circle and the square by their names alone besides
    besides = 2 if kind == "phrases" and engine.model.config.memory.sketch else 0
    assert calls[0] == len(prompts) + besides, "one pass for all of them"
    for one, other in zip(found, alone, strict=True):
        assert_close(one, other)


def test_several_callers_on_one_picture_are_answered_together(engine):
    alone = [engine.open(PICTURE, "picture").segment(prompt) for prompt in CLICKS]
    first, second = (engine.open(PICTURE, "picture") for _ in range(2))  # two people, features shared
    with counted(engine.model.mask_decoder) as calls:
        with held(engine.scheduler) as callers:
            waiting = [
                waiting_for(engine.scheduler, callers, session.segment, prompt)
                for session, prompt in zip((first, second, first, second), CLICKS, strict=True)
            ]
        found = [call.result(SOON) for call in waiting]
    assert calls == [4]
    for one, other in zip(found, alone, strict=True):
        assert_close(one, other)


def test_what_words_find_belongs_to_the_session_that_asked(build_engine, tiny_model):
    engine = build_engine(tiny_model, snap=False, together=4)
    clip = np.stack([PICTURE, PICTURE[::-1]])
    sessions, prompts = [engine.open(clip, "clip") for _ in range(2)], [Prompt(text=t) for t in ("a cat", "a big dog")]
    with counted(engine.model.mask_decoder) as calls, held(engine.scheduler) as callers:
        waiting = [
            waiting_for(engine.scheduler, callers, session.segment, prompt, 0, Priority.BATCH)
            for session, prompt in zip(sessions, prompts, strict=True)
        ]
    found = [call.result(SOON) for call in waiting]
    assert calls == [2]
    for session, prompt, masks in zip(sessions, prompts, found, strict=True):
        assert [frame.frame for frame in session.track([masks[0].object_id])] == [0, 1]
        with counted(engine.model.mask_decoder) as calls:
            session.survey(prompt, 0)
        assert calls == [], "what was thought of it is known"


def test_several_boxes_are_several_objects_in_one_pass(engine):
    boxes = ((5, 5, 40, 50), (30, 10, 70, 50), (0, 0, 20, 20))
    with counted(engine.model.mask_decoder) as calls:
        masks = engine.open(PICTURE).segment(Prompt(boxes=boxes))
    assert calls == [3] and len({mask.object_id for mask in masks}) == 3


def test_different_pictures_and_kinds_are_not_mixed(engine):
    other = np.ascontiguousarray(PICTURE[:, ::-1])
    one, two = engine.open(PICTURE, "one"), engine.open(other, "two")
    with counted(engine.model.mask_decoder) as calls:
        with held(engine.scheduler) as callers:
            waiting = [
                waiting_for(engine.scheduler, callers, session.segment, prompt)
                for session, prompt in ((one, CLICKS[0]), (two, CLICKS[0]), (one, Prompt(text="a cat")))
            ]
        for call in waiting:
            call.result(SOON)
    assert calls == [1, 1, 1]


def test_prompts_that_cannot_be_answered_do_not_spoil_those_of_others(engine):
    session = engine.open(PICTURE)
    tiny = np.zeros(SIZE, bool)
    with held(engine.scheduler) as callers:
        good = waiting_for(engine.scheduler, callers, session.segment, CLICKS[0])
        bad = waiting_for(engine.scheduler, callers, session.segment, Prompt(masks=(tiny,)))
    with pytest.raises(PromptError):
        bad.result(SOON)
    assert_close(good.result(SOON), engine.open(PICTURE).segment(CLICKS[0]))


def test_where_memory_is_short_each_is_answered_by_itself_and_fewer_go_together(engine):
    failed = []

    def short(module, args, kwargs):
        if len(args[2].seg) > 1:
            failed.append(len(args[2].seg))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    budget = engine.cache.budget
    hook = engine.model.mask_decoder.register_forward_pre_hook(short, with_kwargs=True)
    found = engine.open(PICTURE).segment_all([(prompt, 0) for prompt in CLICKS])
    hook.remove()
    assert failed == [4] and engine.scheduler.together == 2
    assert engine.cache.budget == budget and engine.vitals.shortages == 0, "each alone had room enough"
    for one, prompt in zip(found, CLICKS, strict=True):
        assert_close(one, engine.open(PICTURE).segment(prompt))


def test_frames_of_a_clip_may_be_asked_for_at_once(engine):
    clip = np.stack([PICTURE, PICTURE[::-1]])
    alone = [engine.open(clip).segment(CLICKS[0], frame) for frame in (0, 1)]
    found = engine.open(clip).segment_all([(CLICKS[0], 0), (CLICKS[0], 1)])
    for one, other in zip(found, alone, strict=True):
        assert_close(one, other)


def test_chat_and_clicks_may_be_asked_for_at_once(engine):
    click, chat = engine.open(PICTURE).segment_all([(CLICKS[0], 0), (Prompt(text="what is this?", task="chat"), 0)])
    assert len(click) == 1 and chat == []


def test_what_a_device_gains_from_is_the_default(build_engine, tiny_model):
    assert build_engine(tiny_model).scheduler.together == TOGETHER["cpu"]
    assert build_engine(tiny_model, together=7).scheduler.together == 7
