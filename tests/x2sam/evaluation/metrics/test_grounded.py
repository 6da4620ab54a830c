"""Grounded captions worked by hand on small tubes."""

import numpy as np
import pytest

from x2sam.evaluation.metrics.grounded import GroundedTotals, common_words, found_pairs, paired_iou, tube_iou


def tubes(*rows):
    """bool (T, N, 1, W): for each frame a text per mask, x marks pixels."""
    return np.array([[[[c == "x" for c in text]] for text in frame] for frame in rows])


def test_common_words():
    # {red, cat} and {cat}: 2 x 1 / (2 + 1). Articles do not count.
    out = common_words(["the red cat", "dogs"], ["a cat", "dogs"])
    assert out == pytest.approx(np.array([[2 / 3, 0], [0, 1]]))
    assert common_words(["the"], ["a"]).tolist() == [[1.0]]


def test_tube_iou_adds_frames_up():
    answers, truths = tubes(["xx..", "...."], ["xx..", "...x"]), tubes(["x..."], ["xxx."])
    # First: both 1 + 2, either 2 + 3. Second: nothing in common.
    assert tube_iou(answers, truths) == pytest.approx(np.array([[3 / 5], [0]]))
    ignore = np.array([[[0, 1, 0, 0]], [[0, 0, 0, 0]]], bool)
    # Without the second pixel of the first frame: both 3, either 1 + 3.
    assert tube_iou(answers, truths, ignore)[0, 0] == pytest.approx(3 / 4)
    assert tube_iou(answers[:, :0], truths).shape == (0, 1)


def test_pairs_are_taken_greedily():
    # 0.9 first (row 0, column 1), then of what is left only row 1, column 0: 0.2. The 0.8 is used up.
    assert paired_iou(np.array([[0.5, 0.9], [0.2, 0.8]])) == pytest.approx((0.9 + 0.2) / 2)
    assert paired_iou(np.array([[0.5, 0.0], [0.4, 0.0]])) == 0.5
    assert paired_iou(np.zeros((2, 2))) == 0.0 and paired_iou(np.zeros((0, 2))) == 0.0


def test_a_pair_needs_mask_and_phrase():
    iou = np.array([[0.9, 0.9], [0.9, 0.6]])
    assert found_pairs(iou, np.ones((2, 2))) == 2
    assert found_pairs(iou, np.eye(2)) == 2
    assert found_pairs(iou, np.array([[1.0, 1.0], [0.4, 0.4]])) == 1
    assert found_pairs(iou * 0.5, np.ones((2, 2))) == 0
    # Both true ones could only be meant by the first answer: one to one.
    assert found_pairs(np.array([[0.9, 0.9]]), np.ones((1, 2))) == 1


def test_totals_by_hand():
    totals = GroundedTotals()
    answers, truths = tubes(["xx......", "....xx.."]), tubes(["xx......", "....xxxx"])
    value = totals.add_masks(answers, [0.9, 0.8], ["red cat", "a tree"], truths, ["the red cat", "a dog"])
    # IoU 1 and 2 / 4. The second pair overlaps by half, which is enough for IoU but not for its phrase.
    assert value == pytest.approx(0.75)
    totals.add_words("a red cat and a tree", "the red cat and a dog")
    totals.add_words("a bird", "a bird")
    out = totals.result()
    assert out["recall"] == 0.5 and out["pairs"] == 2 and out["miou"] == pytest.approx(0.75)
    # COCO takes an IoU of exactly 0.5 for found: both are, best first.
    assert out["ap50"] == pytest.approx(1.0)
    assert 0 < out["meteor"] < 1 and out["cider"] > 0 and out["captions"] == 2


def test_nothing_answered():
    totals = GroundedTotals()
    truths = tubes(["xx"])
    assert totals.add_masks(truths[:, :0], [], [], truths, ["cat"]) == 0.0
    out = totals.result()
    assert out["recall"] == 0.0 and out["ap50"] == 0.0 and out["meteor"] is None and out["cider"] is None
