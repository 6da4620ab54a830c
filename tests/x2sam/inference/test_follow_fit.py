"""Fitting the weights of following objects: on a clip drawn here, with a network of random weights."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam.inference.follow_fit import Recorder, fit, follow_clip, followed_ids, hidden_situations
from x2sam.inference.follow_weights import plain_weights
from x2sam.structures import Sample, SampleObject

SIZE = (60, 80)


@pytest.fixture(scope="module")
def clip() -> Sample:
    """A red square on green, moving to the right; another object that is too small to be followed."""
    frames = np.full((14, *SIZE, 3), (40, 120, 60), np.uint8)
    frames += np.random.default_rng(0).integers(0, 20, frames.shape).astype(np.uint8)
    labels = np.zeros((14, *SIZE), np.uint8)
    for t in range(14):
        frames[t, 20:40, 10 + 2 * t : 30 + 2 * t] = (200, 50, 40)
        labels[t, 20:40, 10 + 2 * t : 30 + 2 * t] = 1
        labels[t, 2:6, 2:6] = 2
    return Sample(frames, labels, (SampleObject(1, "square"), SampleObject(2, "speck")))


def test_only_objects_that_can_be_seen_are_followed(clip):
    assert followed_ids(clip) == [1]


def test_fitting_uses_what_was_met(clip, build_engine, sketching_model):
    """Weights that believe nothing are mended by one round."""
    engine = build_engine(sketching_model)
    rng = np.random.default_rng(0)
    start = plain_weights()
    for stage in start.table.values():
        for weights in stage.values():
            weights[:] = 0
    noted, poor = follow_clip(engine, clip, start, rng, share=1.0, helped=1.0)
    assert len(noted) == 13 and all(n.truth.shape == n.seen.bins.shape for n in noted)
    assert np.mean(poor[0].j) < 0.2
    fitted = fit(noted + noted, 60, start, rng)
    _, good = follow_clip(engine, clip, fitted, rng)
    assert np.mean(good[0].j) > 0.8


def test_masks_are_spoiled_and_mended(clip):
    from x2sam.inference.follow import Scenes

    scenes, blind = Scenes(), np.zeros((15, 20, 4), np.float32)
    scenery = scenes.look(clip.frames[0], blind)
    recorder = Recorder(plain_weights(), np.random.default_rng(0), 0.0, shaken=1.0, helped=1.0)
    truth = clip.labels[0] == 1
    recorder.learn(scenery, truth)
    recorder.expect(scenery)
    assert ((recorder.mask > 0.5) ^ truth).sum() > 10
    recorder.truth = truth
    recorder.settle(scenery, np.zeros(SIZE, np.float32))
    assert np.array_equal(recorder.mask > 0.5, truth)


def test_what_hidden_objects_are_found_by(build_engine, sketching_model):
    """From the frame on which the board covers it the square is out of sight for good; only that regime is fitted."""
    frames = np.full((24, *SIZE, 3), (40, 120, 60), np.uint8)
    frames[:, 20:40, 30:50] = (200, 50, 40)
    labels = np.zeros((24, *SIZE), np.uint8)
    labels[:, 20:40, 30:50] = 1
    sample = Sample(frames, labels, (SampleObject(1, "square"),))
    start = plain_weights()
    noted = hidden_situations(build_engine(sketching_model), sample, start, seed=0)
    assert len(noted) == 24 - 8 and all(n.seen.regime == "lost" for n in noted)
    there = [bool((n.truth > 0.5).any()) for n in noted]
    assert not any(there[:6]) and all(there[-4:])
    fitted = fit(noted + noted, 40, start, np.random.default_rng(0))
    for stage in ("rough", "fine"):
        assert np.array_equal(fitted.table[stage]["seen"], start.table[stage]["seen"])
        assert not np.array_equal(fitted.table[stage]["lost"], start.table[stage]["lost"])
    assert not hidden_situations(build_engine(sketching_model), Sample(frames[:9], labels[:9], ()), start, seed=0)
