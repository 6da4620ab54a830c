"""PQ and VPQ worked by hand from the papers' definitions. Letters are segments, a dot is nothing or void."""

import numpy as np
import pytest

from x2sam.evaluation.metrics.panoptic import PanopticTotals, VideoPanopticTotals
from x2sam.evaluation.metrics.segments import FrameTable, PixelCounts, dense_map

NAMES = {"a": ("cat", 1), "b": ("cat", 2), "c": ("cat", 3), "s": ("sky", "stuff"), "g": ("grass", "stuff")}
THINGS = {"cat"}


def table(answer, truth):
    """The table of two drawings of one row."""
    letters = sorted(set(answer + truth) - {"."})
    names = [NAMES[k] for k in letters]

    def plane(text):
        return np.array([[letters.index(k) + 1 if k != "." else 0 for k in text]])

    return FrameTable.of(plane(answer), names, plane(truth), names)


def result(*pairs):
    totals = PanopticTotals()
    for answer, truth in pairs:
        totals.add([table(answer, truth)])
    return totals.result(THINGS)


def test_dense_map_puts_the_last_on_top_and_ignores():
    first, second = np.array([[1, 1, 0, 1]], bool), np.array([[0, 1, 1, 0]], bool)
    ignore = np.array([[0, 0, 0, 1]], bool)
    assert dense_map([first, second], (1, 4), ignore).tolist() == [[1, 2, 2, 0]]
    assert dense_map([], (1, 2)).tolist() == [[0, 0]]


def test_tables_add_up_by_name():
    counts = PixelCounts([table("aab", "aa."), table("aa.", "ab.")])
    # a and a: 2 pixels and 1; a where b is: 1; b on void: 1; nothing on void: 1
    assert counts.both[NAMES["a"], NAMES["a"]] == 3
    assert counts.both[NAMES["a"], NAMES["b"]] == 1
    assert counts.both[NAMES["b"], None] == 1 and counts.both[None, None] == 1
    assert counts.answered[NAMES["a"]] == 4 and counts.true[NAMES["b"]] == 1


def test_quality_by_hand():
    # cat: truth a has 4 pixels, answer a has 3 of them: IoU 3/4 > 1/2, matched. Truth b (2 pixels) is answered by one
    # pixel of c: IoU 1/2 is not above 1/2: b is missed and c is extra. PQ = 3/4 / (1 + 1/2 + 1/2) = 3/8,
    # SQ = 3/4, RQ = 1/2. sky: 3 pixels, answered by 4: IoU 3/4, PQ = SQ = 3/4, RQ = 1.
    out = result(("aaasc.sss", "aaaabbsss"))
    assert out["things"] == {"pq": pytest.approx(3 / 8), "sq": 0.75, "rq": 0.5, "categories": 1}
    assert out["stuff"] == {"pq": pytest.approx(0.75), "sq": 0.75, "rq": 1.0, "categories": 1}
    assert out["pq"] == pytest.approx((3 / 8 + 3 / 4) / 2) and out["categories"] == 2


def test_the_right_pixels_under_the_wrong_category_match_nothing():
    # grass is missed and sky is extra: both have PQ 0.
    out = result(("ssss", "gggg"))
    assert out["pq"] == 0.0 and out["categories"] == 2 and out["things"]["pq"] is None


def test_void_is_no_part_of_the_union_and_forgives():
    # a: 2 right, 2 on void. Union = 4 + 2 - 2 - 2 = 2, so IoU is 1. b lies on void by 2 of 3: forgiven, though its
    # third pixel is on a true cat c of 3 pixels, which is missed. PQ = 1 / (1 + 1/2).
    out = result(("aaaabbb..", "aa....ccc"))
    assert out["pq"] == pytest.approx(1 / 1.5)


def test_half_on_void_is_still_extra_unless_it_is_more():
    # b: 1 of 2 on void, not more than half: extra. Sky is all right. cat: PQ 0, sky: 1
    out = result(("bbsss", ".ssss"))
    assert out["things"]["pq"] == 0.0


def test_what_is_left_unlabelled_is_missed():
    assert result(("....", "aass"))["pq"] == 0.0
    assert result(("....", "...."))["pq"] is None


def test_sums_over_pictures():
    # cat: one found exactly (IoU 1), one missed in the second picture: 1 / (1 + 1/2).
    assert result(("aa", "aa"), ("..", "bb"))["pq"] == pytest.approx(2 / 3)


def test_tubes_by_hand():
    # Two frames, one cat. The answer is right on both frames, but has another id on the second.
    totals = VideoPanopticTotals(windows=(1, 2))
    totals.add([table("aa", "aa"), table("bb", "aa")])
    out = totals.result(THINGS)
    # k = 1: each frame by itself matches whole. k = 2: the true tube has 4 pixels, each answered tube 2 of them:
    # IoU 1/2 is not above 1/2, so 1 is missed and 2 are extra: PQ 0.
    assert out["k"] == {"1": 1.0, "2": 0.0}
    assert out["vpq"] == 0.5 and out["vpq_things"] == 0.5 and out["vpq_stuff"] is None


def test_windows_slide_and_short_clips_are_one_window():
    clip = [table("aa", "aa"), table("a.", "aa"), table("..", "aa")]
    totals = VideoPanopticTotals(windows=(2, 6))
    totals.add(clip)
    # k = 2: frames 0-1: 3 of 4 pixels, IoU 3/4. Frames 1-2: 1 of 4, no match: 1 missed, 1 extra.
    # PQ = 3/4 / (1 + 1/2 + 1/2). k = 6: the whole clip is one window: 3 of 6, IoU 1/2, no match.
    assert totals.result(THINGS)["k"] == {"2": pytest.approx(0.375), "6": 0.0}
    totals.add([])
    assert totals.result(THINGS)["k"]["2"] == pytest.approx(0.375)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="one size"):
        FrameTable.of(np.zeros((1, 2), int), (), np.zeros((2, 1), int), ())
