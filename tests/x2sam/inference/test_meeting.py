"""Walks that meet between two masks of a person."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam.inference.meeting import Meetings, Stop, meet, stretches
from x2sam.inference.walk import Anchor, Tracked

SIZE = (20, 30)


def soft(x0: int, x1: int) -> np.ndarray:
    out = np.full(SIZE, 0.02, np.float32)
    out[5:15, x0:x1] = 0.98
    return out


def stop(frame: int, **probabilities: np.ndarray) -> Stop:
    found = {k: (p > 0.5, 0.7) for k, p in probabilities.items()}
    return Stop(frame, found, probabilities, SIZE)


def thing(name: str, **anchors: bool) -> Tracked:
    """``f3=True``: frame 3 was locked by a person, False: proposed."""
    known = {int(k[1:]): Anchor(int(k[1:]), np.ones(SIZE, bool), locked=locked) for k, locked in anchors.items()}
    return Tracked(name, None, None, known)


def test_where_walks_meet():
    a, b = thing("a", f0=True, f6=True, f9=False), thing("b", f0=True, f4=True)

    def ways(frames):
        return [(way.thing.object_id, way.begin, way.end) for way in stretches([a, b], frames)]

    assert ways(range(0, 12)) == [("b", 0, 4), ("a", 0, 6)]
    assert ways(range(9, -1, -1)) == [("a", 9, 6), ("a", 6, 0), ("b", 4, 0)]
    assert ways(range(0, 6)) == [("b", 0, 4)] and ways(range(7, 12)) == []


def walked(meetings, frames, ends, **back):
    """What comes out after each of ``frames``: their numbers, and the masks of all of them. Everything is found at the
    left, ``back`` is what the walks back find."""
    told, masks = [], {}
    for frame in frames:
        meetings.add(stop(frame, a=soft(2, 8), b=soft(12, 18)))
        way = meetings.way_back(frame)
        assert bool(way) == (frame in ends)
        for number in way:
            names = {one.object_id for one in meetings.returning(frame)}
            meetings.meet(frame, stop(number, **{name: back[name] for name in names}))
        ready = meetings.ready(frame)
        told.append([one.frame for one in ready])
        masks |= {one.frame: {name: mask for name, (mask, _) in one.found.items()} for one in ready}
    return told, masks


def test_each_object_meets_its_own_masks():
    """Another one's known mask on the way, here on frame 3, does not part an object from its own on frame 6."""
    a, b = thing("a", f0=True, f6=True), thing("b", f0=True, f3=True)
    told, masks = walked(Meetings([a, b], range(8)), range(8), {3, 6}, a=soft(20, 28), b=soft(9, 11))
    assert told == [[0], [], [], [], [], [], [1, 2, 3, 4, 5, 6], [7]]
    left, right = soft(2, 8) > 0.5, soft(20, 28) > 0.5
    for frame, nearer in {1: left, 2: left, 4: right, 5: right}.items():
        assert np.array_equal(masks[frame]["a"], nearer), frame
    assert np.array_equal(masks[2]["b"], soft(9, 11) > 0.5) and np.array_equal(masks[4]["b"], soft(12, 18) > 0.5)


def test_no_more_frames_wait_than_are_held():
    """From frame 0 to frame 9, of which four are held: frames up to 4 are told before, 5 to 8 are met."""
    a = thing("a", f0=True, f9=True)
    told, masks = walked(Meetings([a], range(11), held=4), range(11), {9}, a=soft(20, 28))
    assert told == [[0], [], [], [], [], [1], [2], [3], [4], [5, 6, 7, 8, 9], [10]]
    moved = [frame for frame in range(1, 9) if np.array_equal(masks[frame]["a"], soft(20, 28) > 0.5)]
    assert moved == [7, 8], "as if it were known on frame 4: 5 and 6 are nearer to that"


@pytest.mark.parametrize(("frame", "expected"), [(1, (2, 10)), (9, (12, 20))])
def test_the_nearer_side_counts(frame, expected):
    found = meet(stop(frame, a=soft(2, 10)), stop(frame, a=soft(12, 20)), 10, {"a": 10}).found
    assert np.array_equal(found["a"][0], soft(*expected) > 0.5)


def test_what_one_side_has_lost_is_heard_from_the_other():
    gone = np.full(SIZE, 0.01, np.float32)
    found = meet(stop(4, a=gone), stop(4, a=soft(3, 9)), 10, {"a": 10}).found
    assert np.array_equal(found["a"][0], soft(3, 9) > 0.5)
    assert not meet(stop(4, a=gone), stop(4, a=gone), 10, {"a": 10}).found["a"][0].any()


def test_others_stay_as_they_were_and_are_not_covered():
    there, back = stop(9, a=soft(2, 10), b=soft(14, 20)), stop(9, a=soft(8, 18))
    found = meet(there, back, 10, {"a": 10}).found
    assert np.array_equal(found["b"][0], there.found["b"][0])
    assert found["a"][0][:, 9:13].any() and not (found["a"][0] & found["b"][0]).any()


def test_objects_that_know_nothing_of_one_another_may_overlap():
    there, back = stop(9, a=soft(2, 10), b=soft(14, 20)), stop(9, a=soft(8, 18), b=soft(14, 20))
    found = meet(there, back, 10, {"a": 10}, exclusive=False).found
    assert np.array_equal(found["b"][0], there.found["b"][0])
    assert (found["a"][0] & found["b"][0]).any()


def test_the_corrected_frame_itself_is_left_alone():
    there = stop(10, a=soft(2, 10))
    assert meet(there, stop(10, a=soft(12, 20)), 10, {"a": 10}).found["a"][0] is there.found["a"][0]


def test_a_correction_mends_the_frames_before_it(build_engine, sketching_model):
    """A square stands still; on the first frame too much was marked, on the last one just the square."""
    picture = np.full((60, 80, 3), 60, np.uint8)
    picture[20:40, 30:50] = (220, 60, 40)
    true = np.zeros((60, 80), bool)
    true[20:40, 30:50] = True
    session = build_engine(sketching_model).open(np.stack([picture] * 7))
    session.correct(0, "a", true)
    alone = [f.masks[0].mask for f in session.track(["a"])]
    bad = np.zeros_like(true)
    bad[5:55, 20:70] = True
    session.correct(0, "a", bad)
    session.correct(6, "a", true)
    steps = list(session.track(["a"]))
    assert [f.frame for f in steps] == list(range(7))
    assert np.array_equal(steps[0].masks[0].mask, bad) and np.array_equal(steps[6].masks[0].mask, true)
    wrong = [int((f.masks[0].mask ^ true).sum()) for f in steps]
    assert wrong[5] <= wrong[1] and wrong[5] < 0.3 * wrong[0]
    assert all((m & true).sum() > 0.8 * true.sum() for m in alone)
    again = [f.masks[0].mask for f in session.track(["a"], direction="backward")]
    assert np.array_equal(again[0], true) and np.array_equal(again[-1], bad)


def test_who_has_to_stop_in_time_can_stop_on_the_way_to_a_corrected_frame(build_engine, sketching_model):
    picture = np.full((60, 80, 3), 60, np.uint8)
    picture[20:40, 30:50] = (220, 60, 40)
    mask = picture[..., 0] > 100
    session = build_engine(sketching_model).open(np.stack([picture] * 5))
    for frame in (0, 3):
        session.correct(frame, "a", mask)
    steps = list(session.track(["a"], pauses=True))
    assert [step and step.frame for step in steps] == [0, *[None] * 3, *[None] * 3, 1, 2, 3, 4]  # there, back
    plain = list(session.track(["a"]))
    assert [step.frame for step in plain] == [0, 1, 2, 3, 4]
    for one, other in zip(plain, filter(None, steps), strict=True):
        np.testing.assert_array_equal(one.masks[0].mask, other.masks[0].mask)
