"""Fitting the drift radar: on a clip drawn here with a network of random weights, and on signs made up by hand."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam.inference.drift import Rating
from x2sam.inference.drift_fit import Met, Noted, again, fit, met_signs, note_clip, told
from x2sam.inference.drift_weights import REGIMES, plain_drift_weights
from x2sam.structures import Sample, SampleObject

SIZE = (60, 80)


@pytest.fixture(scope="module")
def clip() -> Sample:
    """A red square on green, moving to the right."""
    frames = np.full((8, *SIZE, 3), (40, 120, 60), np.uint8)
    frames += np.random.default_rng(0).integers(0, 20, frames.shape).astype(np.uint8)
    labels = np.zeros((8, *SIZE), np.uint8)
    for t in range(8):
        frames[t, 20:40, 10 + 2 * t : 30 + 2 * t] = (200, 50, 40)
        labels[t, 20:40, 10 + 2 * t : 30 + 2 * t] = 1
    return Sample(frames, labels, (SampleObject(1, "square"),))


def test_walks_are_noted(clip, build_engine, sketching_model):
    noted = note_clip(build_engine(sketching_model), clip, both=True)
    assert len(noted.single) == 7 and len(noted.met) == 6
    assert all(len(r.signs) == len(REGIMES[r.regime]) for r, _ in noted.single)
    assert [one.far for one in noted.met] == [1, 2, 3, 3, 2, 1]
    assert not note_clip(build_engine(sketching_model), clip, both=False).met


def made_up(rng: np.random.Generator, count: int = 800) -> Noted:
    """The score alone tells what is wrong; the area's jumps reassure, which they may not."""
    names, noted = REGIMES["seen"], Noted()
    for _ in range(count):
        signs = rng.random(len(names)).astype(np.float32)
        signs[names.index("one")] = 1.0
        odds = 8 * signs[names.index("score")] - 2 * signs[names.index("jump")] - 4
        noted.single.append((Rating("seen", signs, 0.5), bool(rng.random() < 1 / (1 + np.exp(-odds)))))
    for (a, bad), (b, worse) in zip(noted.single[::2], noted.single[1::2], strict=True):
        noted.met.append(Met(a, b, float(bad or worse) * rng.random(), 3, bad and worse))
    return noted


def test_what_tells_is_believed_and_nothing_reassures():
    noted = made_up(np.random.default_rng(0))
    weights = fit(noted, plain_drift_weights())
    row = dict(zip(REGIMES["seen"], weights.table["seen"], strict=True))
    assert row["score"] > 5 and row["jump"] == 0.0 and all(w >= 0 for name, w in row.items() if name not in
                                                          ("again", "away", "one"))  # fmt: skip
    doubts = np.array([again(rating, weights).doubt for rating, _ in noted.single])
    assert abs(doubts.mean() - np.mean([bad for _, bad in noted.single])) < 0.02
    assert np.array_equal(weights.table["lost"], plain_drift_weights().table["lost"])
    met = np.array([weights.doubt("met", met_signs(one, weights)) for one in noted.met])
    bad = np.array([one.bad for one in noted.met])
    assert met[bad].mean() > met[~bad].mean() + 0.2
    lines = told(noted, weights).splitlines()
    assert len(lines) == 2 and "calibration error" in lines[0] and lines[1].startswith("met")


def test_too_little_changes_nothing():
    noted = made_up(np.random.default_rng(0), 20)
    weights = fit(noted, plain_drift_weights())
    assert all(np.array_equal(weights.table[r], plain_drift_weights().table[r]) for r in REGIMES)
