"""Words over a clip with the tiny network: the paper's stream, the sample that is joined, and others in between."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from x2sam.data.task_sample import TaskSample
from x2sam.errors import CancelledError, FramesError, PromptError
from x2sam.evaluation import benchmark
from x2sam.evaluation.benchmark import BenchmarkModel
from x2sam.evaluation.protocol import Protocol, plan
from x2sam.inference.clip_search import SAMPLED, sampled
from x2sam.inference.query_masks import MENDED
from x2sam.inference.scheduler import Priority
from x2sam.structures import FrameMasks, Point, Prompt

SIZE = (60, 80)
PHRASE = Prompt(text="the red circle")
NAMES = Prompt(categories=("circle", "square"))


def clip(count=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)


@pytest.fixture(params=["published", "sketching"])
def engine(request, build_engine, tiny_model, sketching_model):
    model = tiny_model if request.param == "published" else sketching_model
    return build_engine(model, snap=False, generate_limit=8)


def search(session, prompt, **options):
    """Everything that a search yields, and the search."""
    running = session.find_in_clip(prompt, **options)
    return [step for step in running], running


def looks(steps):
    return [step for step in steps if step is not None]


# the sample


@pytest.mark.parametrize(
    ("count", "first", "expected"),
    [
        (1, None, [0]),
        (5, None, [0, 1, 2, 3, 4]),
        (48, None, [0, 7, 13, 20, 27, 34, 40, 47]),
        (48, 8, [0, 8, 13, 20, 27, 34, 40, 47]),
        (48, 47, [0, 7, 13, 20, 27, 34, 40, 47]),
    ],
)
def test_what_is_looked_at(count, first, expected):
    assert sampled(range(count), first) == expected


def test_the_sample_is_bounded():
    for count in (8, 9, 100, 10_000):
        chosen = sampled(range(count), count // 3)
        assert len(chosen) == SAMPLED and chosen[0] == 0 and chosen[-1] == count - 1


@pytest.mark.parametrize("prompt", [PHRASE, NAMES, Prompt(text="describe"), Prompt(text="ins: circle; sem: sky")])
def test_objects_of_every_kind_of_words(engine, prompt):
    session = engine.open(clip(12))
    steps, found = search(session, prompt)
    assert found.finished and found.looked == sampled(range(12)) == [look.frame for look in looks(steps)]
    objects = found.found()
    assert len({one.object_id for one in objects}) == len(objects)
    for one in objects:
        assert set(one.findings) <= set(found.looked) and 0 < one.score <= 1
        for frame, mask in one.masks.items():
            assert mask.mask.shape == SIZE and mask.mask.any() and mask.object_id == one.object_id
            shown = next(look for look in looks(steps) if look.frame == frame)
            assert any(np.array_equal(mask.mask, other.mask) for other in shown.masks)
    if prompt is PHRASE:
        assert len(objects) == 1
    assert (found.text is not None) == (prompt.text == "describe")


def test_the_same_search_gives_the_same_objects(engine):
    found = []
    for _ in range(2):
        _, running = search(engine.open(clip(12)), NAMES)
        found.append([(o.category, sorted(o.findings), [f.bits.tobytes() for f in o.findings.values()])
                      for o in running.found()])  # fmt: skip
    assert found[0] == found[1]


def test_each_frame_is_looked_at_by_itself(engine):
    """A frame of a clip has the answer that the same words have on it, when they are read for the same frame."""
    session = engine.open(clip())
    steps, _ = search(session, PHRASE, first=2)
    (alone,) = session.segment(PHRASE, 2)
    (there,) = next(look.masks for look in looks(steps) if look.frame == 2)
    assert np.array_equal(alone.mask, there.mask) and alone.score == there.score


def test_only_the_frames_that_were_named(engine):
    _, found = search(engine.open(clip(12)), NAMES, frames=range(4, 7))
    assert found.looked == [4, 5, 6]


def test_all_like_what_was_drawn(engine):
    prompt = Prompt(task="vgdseg", points=(Point(20, 20),))
    steps, found = search(engine.open(clip()), prompt, first=3)
    assert found.looked == list(range(6)) and all(step is None or step.frame in range(6) for step in steps)


def test_what_was_found_can_be_tracked(engine):
    session = engine.open(clip())
    _, found = search(session, PHRASE)
    (one,) = found.found()
    frames = {step.frame: step for step in session.track([one.object_id], direction="both")}
    assert sorted(frames) == list(range(6))
    for frame, mask in one.masks.items():
        assert np.array_equal(frames[frame].masks[0].mask, mask.mask)


def test_a_picture_is_a_clip_of_one_frame(engine):
    _, found = search(engine.open(clip(1)[0]), PHRASE)
    (one,) = found.found()
    (alone,) = engine.open(clip(1)[0]).segment(PHRASE)
    assert np.array_equal(one.mask(0).mask, alone.mask)


@pytest.mark.parametrize("prompt", [Prompt(text="how many are there?"), Prompt(points=(Point(5, 5),))])
def test_what_can_not_be_looked_for(engine, prompt):
    with pytest.raises(PromptError, match="only words"):
        engine.open(clip()).find_in_clip(prompt)


def test_no_frames(engine):
    with pytest.raises(PromptError, match="no frames"):
        engine.open(clip()).find_in_clip(PHRASE, frames=())


# step by step


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 9])
def test_it_may_be_stopped_at_any_step(engine, steps):
    session = engine.open(clip(12))
    running = session.find_in_clip(NAMES)
    for _ in itertools.islice(running, steps):
        pass
    objects = running.found()
    assert {frame for one in objects for frame in one.findings} <= set(running.looked)
    assert len(running.looked) == max(0, min(steps - 1, SAMPLED))
    running.close()
    assert not running.finished


def test_looking_at_what_was_found_changes_nothing(engine):
    quiet, watched = engine.open(clip(12)).find_in_clip(NAMES), engine.open(clip(12)).find_in_clip(NAMES)
    list(quiet)
    for _ in watched:
        watched.found()
    one, other = quiet.found(), watched.found()
    assert [sorted(a.findings) for a in one] == [sorted(b.findings) for b in other]
    assert [a.object_id for a in watched.found()] == [b.object_id for b in other]


def test_others_get_in_between(engine):
    """No step is one long job: a click waits for one frame at most."""
    session, order = engine.open(clip(12)), []
    run = engine.scheduler.run

    def noting(job, priority, *args, **options):
        order.append(priority)
        return run(job, priority, *args, **options)

    engine.scheduler.run = noting
    _, found = search(session, NAMES)
    assert order.count(Priority.TEXT) == 1 + len(found.looked), "the words, then one frame after the other"
    assert set(order) <= {Priority.TEXT, Priority.TRACK}, "joining takes turns with tracks"
    order.clear()
    search(engine.open(clip(12)), NAMES, priority=Priority.BATCH)
    assert set(order) == {Priority.BATCH}


def test_a_newer_search_takes_its_place(engine):
    session = engine.open(clip(12))
    older = session.find_in_clip(NAMES, replaces="ann")
    next(older)
    newer = session.find_in_clip(PHRASE, replaces="ann")
    next(newer)
    with pytest.raises(CancelledError):
        next(older)
    assert len(list(newer)) >= SAMPLED


def test_a_newer_search_ends_the_joining_of_an_older_one(engine):
    session = engine.open(clip(12))
    older = session.find_in_clip(PHRASE, replaces="ann")
    while len(older.looked) < SAMPLED:
        next(older)
    next(session.find_in_clip(NAMES, replaces="ann"))
    with pytest.raises(CancelledError):
        list(older)


def test_a_frame_that_can_not_be_read(engine):
    frames = clip(12)

    class Broken:
        def __len__(self):
            return 12

        def __getitem__(self, index):
            if index > 4:
                raise FramesError(f"frame {index} is damaged")
            return frames[index]

    session = engine.open(Broken())
    running = session.find_in_clip(PHRASE)
    with pytest.raises(FramesError, match="damaged"):
        list(running)


def test_pages_are_fetched_by_whoever_asks(engine):
    threads = set()
    frames = clip(12)

    class Watched:
        def __len__(self):
            return 12

        def __getitem__(self, index):
            threads.add(threading.current_thread().name)
            return frames[index]

    search(engine.open(Watched()), NAMES)
    assert threads == {threading.current_thread().name}, "the device's thread never waits for a network"


# the paper's way

QUESTIONS = {
    "a phrase": ("refseg", ("the red circle",), (), PHRASE, "masks"),
    "a question": ("reaseg", ("What is red?",), (), Prompt(text="What is red?"), "masks"),
    "things": ("genseg", ("circle", "square"), (True, True), NAMES, "instances"),
    "stuff": ("genseg", ("sky", "road"), (False, False), Prompt(text="sem: sky, road"), "semantic"),
    "both": ("genseg", ("circle", "sky"), (True, False), Prompt(text="ins: circle; sem: sky"), "panoptic"),
}


@pytest.mark.parametrize("kind", QUESTIONS)
@pytest.mark.parametrize("threshold", [None, 0.0])
def test_the_paper_s_way_is_what_evaluation_does(engine, monkeypatch, kind, threshold):
    """Frame by frame the same masks, scores, categories and ids, from the words to the pixels."""
    task, items, things, prompt, view = QUESTIONS[kind]
    frames = clip(8)
    sample = TaskSample(
        task, frames, np.ones((8, len(items), *SIZE), bool), np.arange(len(items)), items=items, things=things,
        key="made", video=True,
    )  # fmt: skip
    monkeypatch.setattr(benchmark, "QUIRKS", MENDED)
    model = BenchmarkModel(engine, Protocol(sampling="chunks", threshold=0.5 if threshold is None else threshold))
    (chunk,) = plan(sample, model.protocol)
    with model.open(sample, chunk) as looked:
        expected = [answer.views[view] for answer in looked.ask(chunk.questions[0])]

    session = engine.open(frames)
    running = session.find_in_clip(prompt, memory="fifo", threshold=threshold)
    found = looks(list(running))
    assert [look.frame for look in found] == list(range(8)) and running.finished
    names: dict[str, int] = {}
    for look, truth in zip(found, expected, strict=True):
        full = [n for n, mask in enumerate(truth.masks) if mask.any()]
        assert len(look.masks) == len(full)
        for mask, n in zip(look.masks, full, strict=True):
            assert np.array_equal(mask.mask, truth.masks[n])
            assert mask.score == pytest.approx(float(truth.scores[n])) and mask.category == truth.categories[n]
            assert names.setdefault(mask.object_id, int(truth.ids[n])) == truth.ids[n]
    assert len(set(names.values())) == len(names), "one name for each id"


def test_ids_last_through_a_stream(engine):
    """A clip that stands still: whatever is found is found again, under the same name."""
    frames = np.repeat(clip(1), 6, 0)
    steps, found = search(engine.open(frames), NAMES, memory="fifo", threshold=0.0)
    seen: dict[str, list[int]] = {}
    for look in looks(steps):
        ids = [mask.object_id for mask in look.masks]
        assert len(set(ids)) == len(ids)
        for name in ids:
            seen.setdefault(name, []).append(look.frame)
    assert seen and max(map(len, seen.values())) > 1
    objects = {one.object_id: one for one in found.found()}
    assert set(objects) == set(seen)
    for name, one in objects.items():
        assert set(one.findings) <= set(seen[name]) and len(one.findings) == 1


def test_a_stream_holds_no_more_for_a_longer_clip(engine, monkeypatch):
    monkeypatch.setattr("x2sam.inference.clip_search.STREAMED_OBJECTS", 3)
    steps, found = search(engine.open(clip(20)), NAMES, memory="fifo", threshold=0.0)
    assert len(looks(steps)) == 20 and 0 < len(found.found()) <= 3
    assert all(isinstance(look, FrameMasks) for look in looks(steps))
