"""The snap step: it obeys every click, follows edges, and never breaks on odd input."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x2sam.errors import PromptError
from x2sam.inference.refine import snap
from x2sam.inference.refine_evidence import guided_filter
from x2sam.inference.refine_weights import embedded_weights
from x2sam.structures import Point


def blob(height, width, x, y, radius):
    """A soft round probability, as a weak network would answer a click."""
    yy, xx = np.mgrid[:height, :width]
    return np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * radius**2)).astype(np.float32)


def scene(height=120, width=160, seed=0):
    """A red box on green noise, and its truth."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), (60, 140, 70), np.int16)
    truth = np.zeros((height, width), bool)
    truth[30:90, 50:110] = True
    image[truth] = (190, 60, 50)
    return np.clip(image + rng.integers(-4, 5, image.shape), 0, 255).astype(np.uint8), truth


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


@st.composite
def cases(draw):
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    h, w = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    probability = rng.random((h, w)).astype(np.float32) ** draw(st.sampled_from([0.2, 1.0, 5.0]))
    clicks = draw(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=8))
    points = [Point(x * width, y * height, positive) for x, y, positive in clicks]
    previous = rng.random((height, width)) < 0.5 if draw(st.booleans()) else None
    return image, probability, points, previous


@settings(max_examples=60, deadline=None)
@given(cases())
def test_every_click_is_obeyed_and_the_last_one_on_a_pixel_wins(case):
    image, probability, points, previous = case
    mask = snap(image, probability, points, previous=previous)
    height, width = image.shape[:2]
    assert mask.dtype == bool and mask.shape == (height, width)
    final = {(min(int(p.x), width - 1), min(int(p.y), height - 1)): p.positive for p in points}
    assert {(x, y): bool(mask[y, x]) for x, y in final} == final
    assert np.array_equal(mask, snap(image, probability, points, previous=previous))


def test_two_clicks_on_one_pixel():
    image, _ = scene()
    probability = blob(30, 40, 20, 15, 4)
    assert not snap(image, probability, [Point(80, 60), Point(80.5, 60.5, False)])[60, 80]
    assert snap(image, probability, [Point(80.5, 60.5, False), Point(80, 60)])[60, 80]


def test_a_weak_network_gets_the_edges_of_the_picture():
    image, truth = scene()
    probability = 0.15 + 0.7 * blob(30, 40, 18, 13, 5)  # off centre, wrong shape, unsure
    raw = cv2.resize(probability, (160, 120)) > 0.5
    once = snap(image, probability, [Point(80, 60)])
    twice = snap(image, probability, [Point(80, 60), Point(95, 75)], previous=once)
    assert iou(raw, truth) < iou(once, truth)
    assert iou(twice, truth) > 0.8


def test_a_strong_network_is_believed():
    image, _ = scene()
    truth = np.zeros((120, 160), bool)
    truth[10:60, 20:140] = True  # has nothing to do with the colours
    sure = np.where(truth, 0.995, 0.005).astype(np.float32)
    assert iou(snap(image, sure, [Point(80, 35)], weights=embedded_weights("strong")), truth) > 0.9
    # Of a network that is often sure and wrong, only what the picture does not contradict is kept.
    assert 0.4 < iou(snap(image, sure, [Point(80, 35)], weights=embedded_weights("weak")), truth) < 0.9


def test_a_negative_click_takes_its_part_away():
    image, truth = scene()
    image[30:90, 110:150] = (50, 60, 180)
    probability = np.zeros((120, 160), np.float32)
    probability[30:90, 50:150] = 0.8
    previous = probability > 0.5
    mask = snap(image, probability, [Point(80, 60), Point(130, 60, False)], previous=previous)
    assert iou(mask, truth) > 0.85
    assert mask[30:90, 115:145].mean() < 0.1


def test_a_far_part_without_click_goes():
    image, _ = scene()
    probability = np.zeros((120, 160), np.float32)
    probability[30:90, 50:110] = 0.9
    probability[100:106, 140:146] = 0.6
    assert not snap(image, probability, [Point(80, 60)])[100:106, 140:146].any()


@pytest.mark.parametrize("size", [(1, 1), (3, 1500), (6000, 40), (1, 700), (2, 2)])
def test_odd_sizes(size):
    height, width = size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    points = [Point(width / 2, height / 2), Point(0, 0, False), Point(width, height)]
    mask = snap(image, np.full((7, 5), 0.4, np.float32), points[:1])
    assert mask.shape == size and mask[height // 2, width // 2]
    assert snap(image, np.full((7, 5), 0.4, np.float32), points, previous=mask).shape == size


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan, np.inf])
def test_flat_probabilities(value):
    image, _ = scene()
    flat = np.full((30, 40), value, np.float32)
    assert snap(image, flat, [Point(80, 60)])[60, 80]
    assert snap(image, flat, []).shape == (120, 160)
    assert not snap(image, flat, [Point(80, 60, False)])[60, 80]


def test_clicks_outside_and_wrong_arrays_are_refused():
    image, _ = scene()
    probability = blob(30, 40, 20, 15, 4)
    with pytest.raises(PromptError, match="outside"):
        snap(image, probability, [Point(161, 5)])
    with pytest.raises(PromptError, match="outside"):
        snap(image, probability, [Point(float("nan"), 5)])
    with pytest.raises(PromptError, match="uint8"):
        snap(image.astype(np.float32), probability, [Point(1, 1)])
    with pytest.raises(PromptError, match="previous"):
        snap(image, probability, [Point(1, 1)], previous=np.zeros((5, 5), bool))
    with pytest.raises(PromptError, match="probabilities"):
        snap(image, probability[None], [Point(1, 1)])
    with pytest.raises(PromptError, match="box"):
        snap(image, probability, [], boxes=[(10, 10, 5, 50)])


def test_a_box_bounds_the_mask():
    image, truth = scene()
    flat = np.full((30, 40), 0.5, np.float32)
    mask = snap(image, flat, [], boxes=[(50, 30, 110, 90)])
    assert iou(mask, truth) > 0.65
    assert iou(snap(image, flat, [], boxes=[(50, 30, 110, 90)], weights=embedded_weights("strong")), truth) > 0.8
    image[30:90, 110:150] = (190, 60, 50)  # the same colour goes on behind the box
    mask = snap(image, flat, [], boxes=[(50, 30, 110, 90)])
    assert not mask[:, 115:].any() and iou(mask, truth) > 0.5


def test_a_box_then_a_negative_click():
    image, _ = scene()
    image[30:60, 50:110] = (50, 60, 180)
    flat = np.full((30, 40), 0.5, np.float32)
    box = [(50, 30, 110, 90)]
    first = np.zeros((120, 160), bool)
    first[30:90, 50:110] = True
    mask = snap(image, flat, [Point(80, 45, False)], boxes=box, previous=first)
    assert not mask[45, 80] and mask[60:90, 50:110].mean() > 0.6 and mask[30:55, 55:105].mean() < 0.5


def test_large_pictures_cost_little_memory_beside_them():
    image, truth = scene()
    large = cv2.resize(image, (3200, 2400), interpolation=cv2.INTER_NEAREST)
    mask = snap(large, cv2.resize(truth.astype(np.float32), (80, 60)) * 0.9, [Point(1600, 1200)])
    assert iou(mask, cv2.resize(truth.astype(np.uint8), (3200, 2400), interpolation=cv2.INTER_NEAREST) > 0) > 0.85


def test_smoothing_between_edges_is_the_one_of_the_paper():
    """He et al. (2010), equations 14 and 15, window by window: in each a linear function of the colour, fitted with the
    tolerance on its slope; a cell gets the mean of those of all windows that it lies in."""
    rng, radius, tolerance = np.random.default_rng(4), 2, 3e-3
    lab, values = rng.uniform(0, 255, (14, 15, 3)).astype(np.float32), rng.random((14, 15)).astype(np.float32)
    guide, windows = lab.astype(np.float64) * np.array([1, 2, 2]) / 255, {}
    for y in range(radius, 14 - radius):
        for x in range(radius, 15 - radius):
            here = np.s_[y - radius : y + radius + 1, x - radius : x + radius + 1]
            colours, wanted = guide[here].reshape(-1, 3), values[here].ravel().astype(np.float64)
            off = colours - colours.mean(0)
            slope = np.linalg.solve(off.T @ off / len(off) + tolerance * np.eye(3), off.T @ wanted / len(off))
            windows[y, x] = (slope, wanted.mean() - colours.mean(0) @ slope)
    found = guided_filter(lab, values, radius, tolerance)
    for y in range(2 * radius, 14 - 2 * radius):  # cells none of whose windows leaves the picture
        for x in range(2 * radius, 15 - 2 * radius):
            around = [
                windows[y + dy, x + dx]
                for dy in range(-radius, radius + 1)
                for dx in range(-radius, radius + 1)
            ]  # fmt: skip
            expected = np.mean([guide[y, x] @ slope + offset for slope, offset in around])
            assert found[y, x] == pytest.approx(expected, abs=2e-4)
