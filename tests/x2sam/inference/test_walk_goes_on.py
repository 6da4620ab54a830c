"""A walk that was interrupted is gone on with: from known masks and the last frames, without those that are done."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from x2sam.errors import PromptError
from x2sam.inference.engine import Engine

NANO = Path(__file__).parents[3] / "x2sam" / "checkpoints" / "nano" / "model.safetensors"
SIZE, FRAMES = (120, 200), 12

pytestmark = pytest.mark.skipif(not NANO.is_file(), reason="x2sam/checkpoints/nano is not there")


def disc(frame):
    rows, cols = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    return (cols - 40 - 9 * frame) ** 2 + (rows - 60) ** 2 < 24**2


@pytest.fixture(scope="module")
def clip():
    noise = np.random.default_rng(0).integers(0, 60, (*SIZE, 3), np.uint8)
    background = cv2.GaussianBlur(noise, (0, 0), 3) + np.array([30, 80, 30], np.uint8)
    frames = np.repeat(background[None], FRAMES, 0)
    for number, frame in enumerate(frames):
        frame[disc(number)] = (210, 60, 40)
    return frames


@pytest.fixture(scope="module")
def engine():
    with Engine.load("nano", device="cpu") as engine:
        yield engine


def iou(one, other):
    return (one & other).sum() / max((one | other).sum(), 1)


def walked(session, **fields):
    masks = (found for found in session.track(["a"], **fields) if found is not None)
    return {found.frame: found.masks[0].mask for found in masks}


@pytest.fixture(scope="module")
def whole(engine, clip):
    session = engine.open(clip)
    session.correct(0, "a", disc(0))
    found = walked(session)
    assert min(iou(found[frame], disc(frame)) for frame in found) > 0.8
    return found


def test_the_rest_of_a_walk_is_as_without_interruption(engine, clip, whole):
    session = engine.open(clip)
    session.correct(0, "a", disc(0))
    for frame in range(3, 8):
        session.recall(frame, "a", whole[frame], 0.5)
    found = walked(session, skip={1, 2})
    assert sorted(found) == [0, *range(3, FRAMES)], "frames that are left out are not told"
    for frame in range(3, 8):
        np.testing.assert_array_equal(found[frame], whole[frame])
    assert min(iou(found[frame], whole[frame]) for frame in range(8, FRAMES)) > 0.9


def test_up_to_a_corrected_frame(engine, clip):
    known = (0, FRAMES - 1)
    sessions = [engine.open(clip), engine.open(clip)]
    for session in sessions:
        for frame in known:
            session.correct(frame, "a", disc(frame))
    before = walked(sessions[0])
    for frame in (4, 5, 6):
        sessions[1].recall(frame, "a", before[frame])
    after = walked(sessions[1], skip={1, 2, 3})
    assert sorted(after) == [0, *range(4, FRAMES)]
    assert min(iou(after[frame], before[frame]) for frame in range(7, FRAMES)) > 0.9
    np.testing.assert_array_equal(after[FRAMES - 1], disc(FRAMES - 1))


def test_what_is_recalled_is_not_pinned_and_no_lock(engine, clip, whole):
    session = engine.open(clip)
    session.correct(0, "a", disc(0))
    session.recall(3, "a", whole[3])
    session.recall(0, "a", np.zeros(SIZE, bool))
    (thing,) = session.objects(["a"])
    np.testing.assert_array_equal(thing.anchors[0].mask, disc(0))
    assert thing.anchors[3].walked and not thing.anchors[3].locked
    session.correct(3, "a", disc(3))
    assert thing.anchors[3].locked and not thing.anchors[3].walked


def test_what_can_not_be_recalled(engine, clip):
    session = engine.open(clip)
    with pytest.raises(PromptError, match="prompt it first"):
        session.recall(1, "a", disc(1))
    session.correct(0, "a", disc(0))
    with pytest.raises(PromptError, match="the mask is"):
        session.recall(1, "a", disc(1)[:-1])
