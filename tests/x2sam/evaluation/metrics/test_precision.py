"""AP against values worked by hand from COCO's rules: 101 points of recall, the largest precision at or behind each."""

import numpy as np
import pytest

from x2sam.evaluation.metrics.precision import PrecisionTotals, encode

SIZE = (20, 20)


def box(x0, y0, x1, y1):
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return encode(mask)


def test_all_found():
    totals = PrecisionTotals()
    totals.add(SIZE, [("cat", box(0, 0, 10, 10))], [("cat", 0.9, box(0, 0, 10, 10))])
    out = totals.result()
    assert [out[k] for k in ("ap", "ap50", "ap75", "ap_small")] == pytest.approx([1.0] * 4)
    assert out["ap_medium"] is None and out["objects"] == 1


def test_a_loose_mask_counts_up_to_its_iou():
    totals = PrecisionTotals()
    totals.add(SIZE, [("cat", box(0, 0, 10, 10))], [("cat", 0.9, box(0, 0, 10, 7))])
    # IoU 70 / 100: found at the thresholds 0.5, 0.55, 0.6, 0.65 and 0.7 of ten.
    out = totals.result()
    assert [out[k] for k in ("ap", "ap50", "ap75")] == pytest.approx([0.5, 1.0, 0.0])


def test_precision_and_recall_by_hand():
    totals = PrecisionTotals()
    first, second = box(0, 0, 5, 5), box(10, 10, 15, 15)
    wrong = box(0, 15, 5, 20)
    answers = [("cat", 0.9, first), ("cat", 0.8, wrong), ("cat", 0.7, second)]
    totals.add(SIZE, [("cat", first), ("cat", second)], answers)
    # In order of score: right (precision 1, recall 1/2), wrong, right (precision 2/3, recall 1). The 51 points of
    # recall 0 ... 0.5 have precision 1, the other 50 have 2/3.
    assert totals.result()["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_categories_are_averaged_and_those_without_truth_left_out():
    totals = PrecisionTotals()
    mask = box(0, 0, 5, 5)
    totals.add(SIZE, [("cat", mask), ("dog", box(10, 10, 15, 15))], [("cat", 0.9, mask), ("bird", 0.9, mask)])
    # cat 1, dog 0, bird has no true object anywhere.
    assert totals.result()["ap"] == pytest.approx(0.5)


def test_pictures_are_kept_apart():
    totals = PrecisionTotals()
    totals.add(SIZE, [("cat", box(0, 0, 5, 5))], [])
    totals.add(SIZE, [], [("cat", 0.9, box(0, 0, 5, 5))])
    # Found in the wrong picture: nothing is right.
    assert totals.result()["ap"] == 0.0


def test_ignored_pixels_forgive():
    totals = PrecisionTotals()
    mask, crowd = box(0, 0, 5, 5), box(10, 10, 20, 20)
    answers = [("cat", 0.9, box(11, 11, 16, 16)), ("cat", 0.8, mask)]
    totals.add(SIZE, [("cat", mask)], answers, crowd)
    assert totals.result()["ap"] == pytest.approx(1.0)
    without = PrecisionTotals()
    without.add(SIZE, [("cat", mask)], answers)
    # A wrong one before the right one: precision 1/2 at every recall.
    assert without.result()["ap"] == pytest.approx(0.5)


def test_nothing_to_find():
    assert PrecisionTotals().result() == {
        "ap": None, "ap50": None, "ap75": None, "ap_small": None, "ap_medium": None, "ap_large": None, "objects": 0,
    }  # fmt: skip
    totals = PrecisionTotals()
    totals.add(SIZE, [("cat", box(0, 0, 5, 5))], [])
    assert totals.result()["ap"] == 0.0


def test_tubes_are_tall_masks():
    tube = np.zeros((3, 4, 5), bool)
    tube[2, 1, 1] = True
    coded = encode(tube)
    assert coded["size"] == [12, 5]
