"""STQ worked by hand from the paper's formula."""

import math

import numpy as np
import pytest

from x2sam.evaluation.metrics.segments import FrameTable
from x2sam.evaluation.metrics.tracking import TrackingTotals

NAMES = {"a": ("cat", 1), "b": ("cat", 2), "d": ("dog", 1), "s": ("sky", "stuff")}
THINGS = {"cat", "dog"}


def table(answer, truth):
    letters = list(NAMES)

    def plane(text):
        return np.array([[letters.index(k) + 1 if k != "." else 0 for k in text]])

    return FrameTable.of(plane(answer), NAMES.values(), plane(truth), NAMES.values())


def result(*clips):
    totals = TrackingTotals()
    for clip in clips:
        totals.add([table(*frame) for frame in clip], THINGS)
    return totals.result()


def test_perfect():
    assert result([("aas", "aas"), ("ass", "ass")]) == {"stq": 1.0, "aq": 1.0, "sq": 1.0}


def test_a_changed_identity_by_hand():
    # The cat has 4 pixels on two frames; the answer calls it a on the first and b on the second. For each of the two
    # answered tracks TPA = 2, FPA = 0, FNA = 2: 2 x 2 / 4. AQ = 1/4 x (1 + 1) = 1/2. Categories are right: SQ = 1.
    out = result([("aas", "aas"), ("bbs", "aas")])
    assert out["aq"] == pytest.approx(0.5) and out["sq"] == 1.0
    assert out["stq"] == pytest.approx(math.sqrt(0.5))


def test_association_does_not_ask_for_the_category():
    # The cat is followed without fault, but called a dog. cat: 0 of 2, dog: 0 of 2, sky: 1. AQ 1, SQ 1/3.
    out = result([("dds", "aas")])
    assert out["aq"] == 1.0 and out["sq"] == pytest.approx(1 / 3)


def test_too_large_a_track_by_hand_and_void():
    # a covers 2 true pixels, 1 of sky and 1 of void: TPA 2, FPA 1 (void does not count), FNA 0. AQ = 1/2 x 2 x 2 / 3.
    out = result([("aaaa", "aas.")])
    assert out["aq"] == pytest.approx(2 / 3)
    # cat: right 2, answered 3, true 2: 2/3. sky: 0.
    assert out["sq"] == pytest.approx(1 / 3)


def test_tracks_of_several_clips_are_averaged():
    # One perfect track and one that is not found: (1 + 0) / 2.
    assert result([("aa", "aa")], [("..", "bb")])["aq"] == 0.5
    assert result([("s", "s")]) == {"stq": None, "aq": None, "sq": 1.0}
