"""Orders and probabilities by hand, and the radar's measurement with engines that answer by simple rules."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam.errors import MeasurementError
from x2sam.evaluation.drift import evaluate_drift
from x2sam.evaluation.ranking import calibration_error, found_early, most_early, separation, squared_error
from x2sam.structures import FrameMasks, Mask

DOUBT = np.array([0.9, 0.8, 0.8, 0.4, 0.4, 0.2, 0.1, 0.1, 0.1, 0.1])
BAD = np.array([1, 0, 1, 1, 0, 0, 0, 0, 0, 0], bool)


def test_what_is_found_first():
    assert found_early(DOUBT, BAD, 0.1) == pytest.approx(1 / 3)
    assert found_early(DOUBT, BAD, 0.2) == pytest.approx(1.5 / 3)
    assert found_early(DOUBT, BAD, 0.4) == pytest.approx(2.5 / 3)
    assert found_early(DOUBT, BAD, 1.0) == pytest.approx(1.0)
    # Nobody knows: as many as there are to be looked at.
    assert found_early(np.full(10, 0.3), BAD, 0.2) == pytest.approx(0.2)
    assert found_early(DOUBT, ~BAD & BAD, 0.2) is None
    assert most_early(BAD, 0.2) == pytest.approx(2 / 3) and most_early(BAD, 0.5) == 1.0


def test_separation():
    pairs = [(d > g) + 0.5 * (d == g) for d in DOUBT[BAD] for g in DOUBT[~BAD]]
    assert separation(DOUBT, BAD) == pytest.approx(np.mean(pairs))
    assert separation(DOUBT, BAD | ~BAD) is None


def test_calibration():
    doubt = np.array([0.05, 0.05, 0.95, 0.95, 1.0])
    bad = np.array([False, False, True, True, False])
    assert calibration_error(doubt, bad) == pytest.approx((2 * 0.05 + abs(2.9 - 2)) / 5)
    assert squared_error(doubt, bad) == pytest.approx((2 * 0.0025 + 2 * 0.0025 + 1) / 5)


class Session:
    """Answers with the first mask; the score falls, and the doubt rises from frame 5 on."""

    doubts = True

    def __init__(self, frames, log):
        self.known = {}

    def correct(self, frame, object_id, mask):
        self.known[object_id] = mask

    def track(self, object_ids, start, stop, direction, memory=None):
        for k in range(start, stop):
            doubt = (0.9 if k > 4 else 0.1) if self.doubts else None
            yield FrameMasks(k, [Mask(self.known[i], 1 - 0.05 * k, i, doubt=doubt) for i in object_ids if i == "1"])

    def close(self):
        pass


def test_the_radar_beside_the_score_and_any_order(engine, data):
    engine.session_type = Session
    summary = evaluate_drift(engine, data).summary()
    # The square moves by 2 of its 20 pixels a frame: from frame 4 on a third or less... of both is shared: IoU < 0.5.
    assert summary["frames"] == 9 + 8 and summary["clips"] == 2
    assert summary["bad"] == 6 + 5
    assert set(summary["found"]) == {"radar", "score", "random", "best possible"}
    for row in summary["found"].values():
        assert set(row["together"]) == {"0.05", "0.1", "0.2"}
    best, radar = summary["found"]["best possible"], summary["found"]["radar"]
    assert radar["together"]["0.1"] == pytest.approx(1.7 / 11) == best["together"]["0.1"]
    assert summary["found"]["random"]["together"]["0.1"] == 0.1
    assert summary["found"]["score"]["separation"] == 1.0
    assert 0 < summary["calibration"]["radar"]["error"] < 0.2 < summary["calibration"]["score"]["error"]


def test_models_without_doubts_are_told(engine, data):
    class Silent(Session):
        doubts = False

    engine.session_type = Silent
    with pytest.raises(MeasurementError, match="pinned"):
        evaluate_drift(engine, data)
