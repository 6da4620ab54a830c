"""Boards that hide an object for a while."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam.data.occluders import SLIDE, occlude

COUNT, SIZE = 30, (60, 90)


def clip(speed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A square of 16 pixels that moves to the right, on grey."""
    frames = np.full((COUNT, *SIZE, 3), 100, np.uint8)
    labels = np.zeros((COUNT, *SIZE), np.uint8)
    for t in range(COUNT):
        labels[t, 20:36, 10 + speed * t : 26 + speed * t] = 1
        frames[t][labels[t] == 1] = (250, 0, 0)
    return frames, labels


@pytest.mark.parametrize("speed", [0, 1, 2])
def test_the_object_is_covered_and_comes_back(speed):
    frames, labels = clip(speed)
    found = occlude(frames, labels, 1, 6, seed=3)
    assert len(found.hidden) == 6
    for t in found.hidden:
        assert not (found.labels[t] == 1).any()
        assert not (found.frames[t] == (250, 0, 0)).all(-1).any()
    for t in (*range(found.hidden.start - SLIDE), *found.after):
        assert np.array_equal(found.labels[t], labels[t]) and np.array_equal(found.frames[t], frames[t])
    assert found.after == tuple(range(found.hidden.stop + SLIDE, COUNT))
    # On its way in the board covers more and more, and what was given is left alone.
    slide = range(found.hidden.start - SLIDE, found.hidden.start)
    coming = [(found.frames[t] != frames[t]).any(-1).sum() for t in slide]
    assert coming == sorted(coming) and coming[-1] > 0
    assert (labels[found.hidden.start] == 1).any()


def test_the_same_seed_hides_the_same_way():
    first, again, other = (occlude(*clip(), 1, 6, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.frames, again.frames) and not np.array_equal(first.frames, other.frames)


def test_clips_that_are_too_short_or_empty_are_left_out():
    frames, labels = clip()
    assert occlude(frames, labels, 1, 20, seed=0) is None
    assert occlude(frames, labels, 2, 6, seed=0) is None
    labels[20:] = 0
    assert occlude(frames, labels, 1, 6, seed=0) is None
