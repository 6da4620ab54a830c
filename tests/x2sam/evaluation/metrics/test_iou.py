import numpy as np
import pytest

from x2sam.evaluation.metrics.iou import IouTotals, iou


def row(text):
    return np.array([[c == "x" for c in text]])


def test_iou_by_hand():
    # both: 2 pixels; either: 5
    assert iou(row("xxx..."), row(".xxxx.")) == pytest.approx(2 / 5 * 1.0)
    # without the third pixel: both 1, either 4
    assert iou(row("xxx..."), row(".xxxx."), row("..x...")) == pytest.approx(1 / 4)


def test_nothing_there_and_nothing_found_is_right():
    empty, some = row("...."), row(".x..")
    assert iou(empty, empty) == 1.0
    assert iou(some, empty) == 0.0
    assert iou(some, empty, some) == 1.0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        iou(row("x"), row("xx"))


def test_cumulative_and_mean_differ():
    totals = IouTotals()
    assert (totals.ciou, totals.giou) == (0.0, 0.0)
    totals.add(row("xxxxxxxx"), row("xxxxxxxx"))  # 8 / 8
    totals.add(row("x......."), row("...x....") | row("x......."))  # 1 / 2
    totals.add(row("........"), row("........"))  # 0 / 0 counts 1
    assert totals.ciou == pytest.approx(9 / 10)
    assert totals.giou == pytest.approx((1 + 0.5 + 1) / 3)
