"""Walks that meet between two masks of a person."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam.inference.meeting import Stop, from_the_other_side, meet, meeting_frames, span_before
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
    assert meeting_frames([a, b], range(0, 12)) == [4, 6]
    assert meeting_frames([a, b], range(9, -1, -1)) == [6, 4, 0]
    assert [o.object_id for o in from_the_other_side([a, b], 6)] == ["a"]
    assert span_before(a, 6, 1) == 6 and span_before(a, 6, -1) == 3 and span_before(b, 0, 1) == 0


@pytest.mark.parametrize(("frame", "expected"), [(1, (2, 10)), (9, (12, 20))])
def test_the_nearer_side_counts(frame, expected):
    found = meet(stop(frame, a=soft(2, 10)), stop(frame, a=soft(12, 20)), 10, {"a": 10})
    assert np.array_equal(found["a"][0], soft(*expected) > 0.5)


def test_what_one_side_has_lost_is_heard_from_the_other():
    gone = np.full(SIZE, 0.01, np.float32)
    found = meet(stop(4, a=gone), stop(4, a=soft(3, 9)), 10, {"a": 10})
    assert np.array_equal(found["a"][0], soft(3, 9) > 0.5)
    assert not meet(stop(4, a=gone), stop(4, a=gone), 10, {"a": 10})["a"][0].any()


def test_others_stay_as_they_were_and_are_not_covered():
    there, back = stop(9, a=soft(2, 10), b=soft(14, 20)), stop(9, a=soft(8, 18))
    found = meet(there, back, 10, {"a": 10})
    assert np.array_equal(found["b"][0], there.found["b"][0])
    assert found["a"][0][:, 9:13].any() and not (found["a"][0] & found["b"][0]).any()


def test_objects_that_know_nothing_of_one_another_may_overlap():
    there, back = stop(9, a=soft(2, 10), b=soft(14, 20)), stop(9, a=soft(8, 18), b=soft(14, 20))
    found = meet(there, back, 10, {"a": 10}, exclusive=False)
    assert np.array_equal(found["b"][0], there.found["b"][0])
    assert (found["a"][0] & found["b"][0]).any()


def test_the_corrected_frame_itself_is_left_alone():
    there = stop(10, a=soft(2, 10))
    assert meet(there, stop(10, a=soft(12, 20)), 10, {"a": 10})["a"][0] is there.found["a"][0]


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
