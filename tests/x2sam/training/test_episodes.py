"""What is drawn into a training picture: about which object, and how closely."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from x2sam.data.masks import mask_bbox
from x2sam.inference.conversation import ChatEncoder
from x2sam.structures import Sample, SampleObject
from x2sam.training.episodes import EpisodeBuilder, EpisodeConfig


@pytest.fixture
def drawn_boxes(tiny_model, tiny_tokenizer):
    """A function of further settings: the boxes ``(x0, y0, x1, y1)`` of 60 rows and the ids they are about."""
    views = tiny_model.config.preprocess
    size = views.mask_size
    labels = np.zeros(size, np.uint8)
    high, wide = size
    cv2.rectangle(labels, (2, 2), (wide // 2 - 4, high // 2 - 4), 1, -1)
    cv2.rectangle(labels, (wide // 2, 2), (wide - 4, high // 2 - 4), 2, -1)
    cv2.line(labels, (4, high // 2 + 2), (wide - 4, high - 4), 3, 2)
    objects = tuple(SampleObject(number, "box") for number in (1, 2, 3))
    sample = Sample(np.full((1, *size, 3), 128, np.uint8), labels[None], objects, True, "made")

    def draw(**settings) -> list[tuple[tuple[int, int, int, int], int]]:
        config = EpisodeConfig(sketch_rows=60, word_rows=0, kinds=(("box", 1.0),), **settings)
        encoder = ChatEncoder(tiny_tokenizer, views.merge)
        builder = EpisodeBuilder(encoder, views, tiny_model.config.region.tokens, config)
        rows = builder.build(sample, np.random.default_rng(5)).sketch_rows
        number_of = lambda mask: int(labels[mask].max())  # noqa: E731
        return [(mask_bbox(row.regions[0]), number_of(row.masks[0, 0])) for row in rows]

    draw.labels = labels
    return draw


def test_sparse_boxes_are_about_what_fills_its_box_least(drawn_boxes):
    """The diagonal is one object of three: a third of the boxes without the setting; it is among four drawn at random
    with chance 1 - (2/3)^4 = 0.80, and a share of 0.5 gives (0.33 + 0.80) / 2 = 0.57."""
    share = lambda boxes: sum(number == 3 for _, number in boxes) / len(boxes)  # noqa: E731
    assert share(drawn_boxes()) == pytest.approx(1 / 3)
    assert 0.7 < share(drawn_boxes(sparse=1.0)) < 0.95
    assert 0.45 < share(drawn_boxes(sparse=0.5)) < 0.7


def test_boxes_are_drawn_from_tight_to_a_twentieth_of_a_side_off(drawn_boxes):
    loose = []
    for box, number in drawn_boxes():
        tight = mask_bbox(drawn_boxes.labels == number)
        sides = np.array([tight[2] - tight[0], tight[3] - tight[1]] * 2)
        off = np.abs(np.subtract(box, tight))
        assert (off <= 0.05 * sides + 1).all()  # a pixel of rounding
        loose.append(bool(off.any()))
    assert any(loose) and not all(loose)
