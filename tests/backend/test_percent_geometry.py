from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from backend import geometry

SIZE = (480, 640)


def disc(size, x, y, radius):
    rows, cols = np.mgrid[: size[0], : size[1]] + 0.5
    return (cols - x) ** 2 + (rows - y) ** 2 < radius**2


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(
    ("percent", "pixels"),
    [((50, 50), (320, 240)), ((25, 75), (160, 360)), ((0, 0), (0.25, 0.25)), ((100.4, 100), (639.75, 479.75))],
)
def test_points(percent, pixels):
    assert geometry.percent_to_point(*percent, SIZE) == pytest.approx(pixels)


@given(st.floats(-10, 110), st.floats(-10, 110), st.integers(1, 5000), st.integers(1, 5000))
def test_a_point_always_falls_on_a_pixel(x, y, height, width):
    px, py = geometry.percent_to_point(x, y, (height, width))
    assert 0 <= int(px) < width
    assert 0 <= int(py) < height


def test_a_box_and_its_turned_corners():
    upright = geometry.percent_to_corners(25, 25, 50, 50, 0, SIZE)
    assert geometry.corners_to_box(upright, SIZE) == (160, 120, 480, 360)
    turned = geometry.percent_to_corners(50, 50, 10, 10, 90, SIZE)  # clockwise about its first corner
    assert turned == pytest.approx(np.array([[320, 240], [320, 304], [272, 304], [272, 240]]))


def test_a_box_is_cut_to_the_picture():
    assert geometry.corners_to_box(np.array([[-20.0, -5.0], [700.0, 100.0]]), SIZE) == (0, 0, 640, 100)


def test_a_turned_box_as_mask_has_its_area():
    corners = geometry.percent_to_corners(50, 30, 20, 30, 30, SIZE)
    mask = geometry.corners_to_mask(corners, SIZE)
    assert mask.sum() == pytest.approx(128 * 144, rel=0.02)
    assert mask[int(corners[:, 1].mean()), int(corners[:, 0].mean())]


@given(st.integers(0, 30), st.integers(0, 20), st.integers(1, 9), st.integers(1, 9))
def test_mask_to_box_and_back(x, y, width, height):
    mask = np.zeros((40, 60), bool)
    mask[y : y + height, x : x + width] = True
    box = geometry.mask_to_box(mask)
    assert box == (x, y, x + width, y + height)
    percent = geometry.box_to_percent(box, mask.shape)
    corners = geometry.percent_to_corners(*percent.values(), 0, mask.shape)
    assert geometry.corners_to_box(corners, mask.shape) == pytest.approx(box)


def test_an_empty_mask_has_neither_box_nor_outline():
    empty = np.zeros(SIZE, bool)
    assert geometry.mask_to_box(empty) is None
    assert geometry.mask_to_polygons(empty) == []


@pytest.mark.parametrize("radius", [1.2, 3, 10, 80])
def test_outlines_redraw_the_mask(radius):
    mask = disc((200, 220), 110.3, 97.1, radius)
    (points,) = geometry.mask_to_polygons(mask, tolerance=0.25)
    drawn = np.zeros((800, 880), np.uint8)
    cv2.fillPoly(drawn, [np.round(points * 4).astype(np.int32)], 1)
    exact = np.kron(mask, np.ones((4, 4), bool))
    assert iou(drawn.astype(bool), exact) > 0.9 - 0.6 / radius / radius


def ring():
    """A disc with two round holes and a speck of one."""
    mask = disc((300, 320), 160, 150, 100) & ~disc((300, 320), 130, 150, 30) & ~disc((300, 320), 205, 160, 20)
    mask[100, 160] = False
    return mask


def test_holes_are_cut_out_of_an_outline():
    mask = ring()
    (points,) = geometry.mask_to_polygons(mask)
    canvas = Image.new("1", (320 * 4, 300 * 4))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in (points * 4).tolist()], fill=1)
    assert iou(np.asarray(canvas), np.kron(mask, np.ones((4, 4), bool))) > 0.96, "filled by the even-odd rule"
    drawn = np.zeros((1200, 1280), np.uint8)
    cv2.fillPoly(drawn, [np.round(points * 4).astype(np.int32)], 1)
    assert iou(drawn.astype(bool), np.kron(mask, np.ones((4, 4), bool))) > 0.96
    x, y = points.T
    turned = abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
    assert turned == pytest.approx(mask.sum(), rel=0.03), "holes run against the outline: the non-zero rule fills alike"


def test_the_tolerance_is_in_pixels():
    mask = disc((300, 320), 160, 150, 100)
    fine, coarse = (geometry.mask_to_polygons(mask, tolerance)[0] for tolerance in (0.25, 4))
    assert len(coarse) < len(fine) / 3
    away = np.abs(np.hypot(*(coarse - (160, 150)).T) - 100)
    assert away.max() < 1.5


def test_parts_come_largest_first_and_specks_are_dropped():
    mask = disc(SIZE, 100, 100, 20) | disc(SIZE, 400, 300, 60)
    mask[10, 10] = True
    first, second = geometry.mask_to_polygons(mask)
    assert first.mean(0) == pytest.approx((400, 300), abs=3)
    assert second.mean(0) == pytest.approx((100, 100), abs=3)


def test_a_single_pixel_has_an_outline_with_an_area():
    mask = np.zeros((5, 5), bool)
    mask[2, 3] = True
    (points,) = geometry.mask_to_polygons(mask)
    assert len(points) >= 3
    assert cv2.contourArea(points.astype(np.float32)) > 0


def test_resizing_keeps_the_place():
    mask = disc(SIZE, 320, 120, 50)
    doubled = geometry.resize_mask(mask, (960, 1280))
    assert iou(doubled, disc((960, 1280), 640, 240, 100)) > 0.97
    assert geometry.resize_mask(mask, SIZE) is mask
