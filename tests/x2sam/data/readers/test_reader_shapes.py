"""Outlines to masks: against pycocotools for whatever masks, by hand for what must hold, and refused when broken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from x2sam.data.readers.files import Node
from x2sam.data.readers.shapes import decode_rle, decode_shape, encode_rle, fill_corners, fill_polygons
from x2sam.errors import FramesError

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40))


def _node(value: object) -> Node:
    return Node(value, "file.json")


def _coded(mask: np.ndarray) -> dict:
    coded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": coded["counts"].decode()}


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_compressed_runs_are_read_as_pycocotools_writes_them(mask):
    np.testing.assert_array_equal(decode_rle(_node(_coded(mask)), mask.shape), mask)


@settings(max_examples=30, deadline=None)
@given(MASKS)
def test_written_runs_are_read_by_pycocotools(mask):
    coded = encode_rle(mask)
    np.testing.assert_array_equal(coco_mask.decode({**coded, "counts": coded["counts"].encode()}), mask)


def test_long_runs_have_several_groups():
    mask = np.zeros((700, 900), bool)
    mask[100:600, 200:800:7] = True
    np.testing.assert_array_equal(decode_rle(_node(_coded(mask)), mask.shape), mask)


def test_plain_runs_go_down_the_columns():
    # 2 off, 3 on, 1 off in a picture of two rows and three columns.
    mask = decode_rle(_node({"size": [2, 3], "counts": [2, 3, 1]}), (2, 3))
    assert mask.tolist() == [[False, True, True], [False, True, False]]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"size": [2, 3], "counts": [2, 3]}, "do not fill"),
        ({"size": [2, 3], "counts": [2, 5, -1]}, "do not fill"),
        ({"size": [2, 3], "counts": [2, 3, 2**60]}, "do not fill"),
        ({"size": [3, 2], "counts": [6]}, "picture is"),
        ({"size": [2, 3], "counts": ""}, "no compressed"),
        ({"size": [2, 3], "counts": "6\x10"}, "no compressed"),
        ({"size": [2, 3], "counts": "oooo"}, "no compressed"),
        ({"size": [2, 3], "counts": "o" * 30 + "1"}, "too large"),
        ({"size": [2, 3]}, "no 'counts'"),
        ({"size": [2, 3], "counts": {"a": 1}}, "list of numbers"),
    ],
)
def test_broken_runs_are_refused(value, told):
    with pytest.raises(FramesError, match=rf"file\.json.*{told}"):
        decode_rle(_node(value), (2, 3))


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=[chr(c) for c in range(40, 120)], max_size=30))
def test_any_text_is_a_mask_of_the_size_or_refused(text):
    try:
        mask = decode_rle(_node({"size": [8, 9], "counts": text}), (8, 9))
    except FramesError:
        return
    assert mask.shape == (8, 9)
    np.testing.assert_array_equal(mask, coco_mask.decode({"size": [8, 9], "counts": text.encode()}))


def test_a_rectangle_as_polygon_fills_its_pixels():
    mask = fill_polygons(_node([[2, 1, 6, 1, 6, 4, 2, 4]]), (6, 8))
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:6] = True
    np.testing.assert_array_equal(mask, expected)


def test_polygons_are_united_and_one_flat_list_is_one():
    first, second = [0, 0, 3, 0, 3, 3, 0, 3], [5, 5, 8, 5, 8, 8, 5, 8]
    both = fill_polygons(_node([first, second]), (9, 9))
    single = [fill_polygons(_node(ring), (9, 9)) for ring in (first, second)]
    np.testing.assert_array_equal(both, single[0] | single[1])
    assert [int(mask.sum()) for mask in single] == [9, 9]


def test_polygons_without_inside_are_passed_over():
    assert not fill_polygons(_node([[1, 1, 5, 5], []]), (9, 9)).any()


@pytest.mark.parametrize("value", [[[0, 0, 1]], [[0, 0, 1e9, 0, 1e9, 1e9]], [["a"] * 6], [[0, 0, None, 1, 1, 1]], 5])
def test_broken_polygons_are_refused(value):
    with pytest.raises(FramesError, match=r"file\.json"):
        fill_polygons(_node(value), (9, 9))


def test_null_is_an_empty_mask():
    assert not decode_shape(_node(None), (3, 4)).any()


def test_corners_include_the_border():
    mask = fill_corners(_node([[1, 1], [3, 1], [3, 2], [1, 2]]), (5, 5))
    expected = np.zeros((5, 5), bool)
    expected[1:3, 1:4] = True
    np.testing.assert_array_equal(mask, expected)
    assert not fill_corners(_node([]), (5, 5)).any()
    with pytest.raises(FramesError, match="far outside"):
        fill_corners(_node([[1e12, 0], [0, 0], [1, 1]]), (5, 5))
