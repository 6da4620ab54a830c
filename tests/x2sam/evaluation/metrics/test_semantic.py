"""mIoU and VC worked by hand. Letters are categories, a dot is nothing or void."""

import numpy as np
import pytest

from x2sam.evaluation.metrics.segments import FrameTable
from x2sam.evaluation.metrics.semantic import Consistency, SemanticTotals

LETTERS = "abc"


def plane(text, first=0):
    return np.array([[LETTERS.index(k) + first if k != "." else first - 1 for k in text]])


def table(answer, truth):
    names = [(k, 0) for k in LETTERS]
    return FrameTable.of(plane(answer, 1), names, plane(truth, 1), names)


def test_mean_iou_by_hand():
    totals = SemanticTotals()
    totals.add(table("aab.", "abbb"))
    totals.add(table("cc", "a."))
    # a: right 1, answered 2, true 2 (one of them answered c): 1 / (2 + 2 - 1). b: right 1, answered 1, true 3: 1 / 3.
    # c: answered 1 on a labelled pixel (the other one is void), true 0: 0 / 1. Right pixels: 2 of 5.
    assert totals.iou() == {"a": pytest.approx(1 / 3), "b": pytest.approx(1 / 3), "c": 0.0}
    assert totals.result() == {"miou": pytest.approx(2 / 9), "categories": 3, "pixel_accuracy": pytest.approx(2 / 5)}


def test_categories_that_do_not_occur_are_left_out():
    totals = SemanticTotals()
    totals.add(table("aa", "aa"))
    assert totals.result()["miou"] == 1.0 and totals.result()["categories"] == 1
    assert SemanticTotals().result() == {"miou": None, "categories": 0, "pixel_accuracy": None}


def consistency(n, answers, truths):
    steady = Consistency((n,))
    for answer, truth in zip(answers, truths, strict=True):
        steady.add(plane(answer), plane(truth))
    return steady.result()


def test_consistency_by_hand():
    # Windows of 2 in 3 frames. Frames 0-1: the truth stays on all 4 pixels, the answer on 3 of them, of which 2 are
    # right (the first is steadily wrong): 3/4, right 2/4. Frames 1-2: the truth stays on 3 pixels (the last changes),
    # the answer on 2 of those, of which 1 is right: right 1/3. The script leaves the last window out: 3/4 alone.
    out = consistency(2, ["baab", "baaa", "bbaa"], ["aaaa", "aaaa", "aaab"])
    assert out["mvc2"] == pytest.approx(3 / 4)
    assert out["mvc2_right"] == pytest.approx((2 / 4 + 1 / 3) / 2)


def test_void_counts_for_the_script_only():
    # Frames 0-1 of 3: void stays void on two pixels, the answer there changes on one.
    out = consistency(2, ["aaa", "aab", "aab"], ["a..", "a..", "a.."])
    assert out["mvc2"] == pytest.approx(2 / 3)
    assert out["mvc2_right"] == 1.0


def test_clips_do_not_run_into_each_other():
    steady = Consistency((2,))
    for text in ("a", "b"):
        steady.begin()
        steady.add(plane(text), plane(text))
    assert steady.result() == {"mvc2": None, "mvc2_right": None}
    steady.add(plane("b"), plane("b"))
    # One whole window, and the script leaves out the only one of a clip as long as the window.
    assert steady.result() == {"mvc2": None, "mvc2_right": 1.0}


def test_only_the_longest_window_is_held():
    steady = Consistency((2, 3))
    for _ in range(9):
        steady.add(plane("ab"), plane("ab"))
    assert len(steady._maps) == 3
    assert len(steady.steady[2]) == 7 and len(steady.right[3]) == 7
