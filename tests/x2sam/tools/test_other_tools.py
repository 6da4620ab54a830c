"""Masks in the shapes of supervision and FiftyOne, and back: nothing of them is lost.

FiftyOne brings a database server along; where it is not installed, a stand-in holds what it is given, as its labels do.
"""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from x2sam.errors import PromptError
from x2sam.structures import Mask
from x2sam.tools.for_fiftyone import labels_to_masks, masks_to_labels
from x2sam.tools.for_supervision import detections_to_masks, masks_to_detections

NAMES = ("cat", "dog")
SIZE = (17, 23)


def masks() -> list[Mask]:
    corner, ring = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    corner[:3, :5] = True
    ring[4:16, 6:22] = True
    ring[7:12, 9:15] = False
    return [Mask(corner, 0.75, "obj1", category=1), Mask(ring, 0.5, "obj2", category=0), Mask(ring & ~ring, 0.9)]


def same(found: list[Mask], expected: list[Mask]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.mask == b.mask).all() and a.score == pytest.approx(b.score)
        assert (a.object_id, a.category, a.phrase) == (b.object_id, b.category, NAMES[b.category])


@pytest.fixture
def fiftyone(monkeypatch):
    if importlib.util.find_spec("fiftyone") is None:
        labels = SimpleNamespace(
            Detection=lambda **given: SimpleNamespace(**{"mask": None, "confidence": None, **given}),
            Detections=SimpleNamespace,
        )
        monkeypatch.setitem(sys.modules, "fiftyone", labels)
    import fiftyone

    return fiftyone


def test_supervision_and_back():
    pytest.importorskip("supervision", reason="pip install supervision")
    made = masks_to_detections(masks(), NAMES)
    # x0, y0, x1, y1 of the corner and of the ring
    assert made.xyxy.tolist() == [[0, 0, 5, 3], [6, 4, 22, 16]] and list(made.data["class_name"]) == ["dog", "cat"]
    assert made.area.tolist() == [15, 12 * 16 - 5 * 6]
    same(detections_to_masks(made), masks()[:2])
    same(detections_to_masks(made[made.confidence > 0.6]), masks()[:1])
    assert len(masks_to_detections([])) == 0 and detections_to_masks(masks_to_detections([])) == []
    made.mask = None
    with pytest.raises(PromptError, match="boxes"):
        detections_to_masks(made)


def test_fiftyone_and_back(fiftyone):
    made = masks_to_labels(masks(), NAMES)
    corner, ring = made.detections
    assert corner.bounding_box == pytest.approx([0, 0, 5 / 23, 3 / 17]) and corner.label == "dog"
    assert ring.mask.shape == (12, 16) and ring.confidence == 0.5
    same(labels_to_masks(made, SIZE, NAMES), masks()[:2])
    assert [m.category for m in labels_to_masks(made, SIZE)] == [0, 1]  # in the order of their labels
    boxed = fiftyone.Detections(detections=[fiftyone.Detection(label="cat", bounding_box=[0, 0, 1, 1])])
    with pytest.raises(PromptError, match="box"):
        labels_to_masks(boxed, SIZE)


def test_a_part_that_does_not_fit_its_box_is_stretched_and_cut(fiftyone):
    box = [-0.1, 0.5, 0.6, 0.6]  # of 10 x 10 pixels: from -1 to 5 and from 5 to 11
    part = np.array([[True, False], [False, True]])
    labels = fiftyone.Detections(detections=[fiftyone.Detection(label="cat", bounding_box=box, mask=part)])
    (mask,) = labels_to_masks(labels, (10, 10))
    expected = np.zeros((10, 10), bool)
    expected[5:8, 0:2], expected[8:10, 2:5] = True, True
    assert (mask.mask == expected).all()


@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_no_pixel_is_lost_on_the_way(mask):
    labels = SimpleNamespace(Detection=lambda **given: SimpleNamespace(**given), Detections=SimpleNamespace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fiftyone", labels)
        found = labels_to_masks(masks_to_labels([Mask(mask, 1.0)]), mask.shape)
    assert [one.mask.tolist() for one in found] == ([mask.tolist()] if mask.any() else [])
