"""Optical flow on pictures whose motion is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from x2sam.inference.motion import Flow, FlowEstimator, moves_along, push, warp, working_picture

SIZE = (96, 128)


def texture(seed: int, size=SIZE) -> np.ndarray:
    """Coarse and fine at once, as pictures are: flow is searched from coarse to fine."""
    noise = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    layers = sum(s * cv2.GaussianBlur(noise, (0, 0), s) for s in (1.5, 4.0, 9.0))
    return cv2.normalize(layers, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def square_at(x: int, y: int, ground_shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A textured square of 32 cells on another texture, and its mask."""
    picture = np.roll(texture(1), ground_shift, 1)
    mask = np.zeros(SIZE, bool)
    mask[y : y + 32, x : x + 32] = True
    picture[mask] = texture(2)[:32, :32].ravel()
    return picture, mask


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_a_moving_square_is_carried_along():
    """Either flow takes the true mask of each frame to the next one."""
    estimate = FlowEstimator()
    before, mask = square_at(30, 30)
    for k in range(1, 7):
        now, truth = square_at(30 + 3 * k, 30 + k)
        flow = estimate(before, now)
        assert iou(warp(mask.astype(np.float32), flow.back) > 0.5, truth) > 0.9
        assert iou(push(mask.astype(np.float32), flow.forth) > 0.5, truth) > 0.9
        before, mask = now, truth


def test_flow_points_back_and_doubts_what_is_newly_seen():
    before, _ = square_at(30, 30)
    now, mask = square_at(40, 30)
    flow = FlowEstimator()(before, now)
    core = cv2.erode(mask.astype(np.uint8), np.ones((9, 9))) > 0
    assert np.abs(np.median(flow.back[core], 0) - (-10, 0)).max() < 0.3
    uncovered = square_at(30, 30)[1] & ~mask
    assert flow.doubt[uncovered].mean() > 2 * flow.doubt[core].mean() + 0.2


def test_who_moves_with_the_object():
    """The ground moves left, the square right; half of the square is known, all of it is found."""
    before, _ = square_at(40, 30)
    now, mask = square_at(44, 30, ground_shift=-3)
    half = mask.astype(np.float32)
    half[:46] = 0
    found = moves_along(FlowEstimator()(before, now), half)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((7, 7))) > 0
    far = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))) == 0
    assert found[inner].mean() > 1 and found[far].mean() < -1


def test_nothing_is_said_where_all_move_alike():
    before, mask = square_at(40, 30)
    flow = FlowEstimator()(before, before)
    assert np.abs(moves_along(flow, mask.astype(np.float32))).max() < 0.5


def test_frames_too_small_to_search():
    tiny = np.zeros((8, 9), np.uint8)
    flow = FlowEstimator()(tiny, tiny)
    assert flow.back.shape == (8, 9, 2) and float(flow.doubt.min()) == 1
    assert not moves_along(Flow.unknown((40, 40)), np.ones((40, 40), np.float32)).any()


@pytest.mark.parametrize(("size", "expected"), [((480, 854), (216, 384)), ((90, 60), (90, 60)), ((2000, 4), (384, 1))])
def test_working_size(size, expected):
    assert working_picture(np.zeros((*size, 3), np.uint8)).shape == (*expected, 3)
