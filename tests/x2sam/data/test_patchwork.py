"""Pictures put together from surfaces and objects of real ones."""

import json

import cv2
import numpy as np
import pytest

from x2sam.data.mixture import TrainingMixture
from x2sam.data.patchwork import SURFACE, patchwork
from x2sam.structures import Sample, SampleObject

SIZE = (64, 96)
RED, GREEN, BLUE = (200, 20, 20), (20, 200, 20), (20, 20, 200)


def plain(colour, disc=None):
    """A picture of one colour; with a ``disc`` of another in its middle, which is an object."""
    picture, labels = np.full((120, 160, 3), colour, np.uint8), np.zeros((120, 160), np.uint8)
    if disc is not None:
        cv2.circle(labels, (80, 60), 25, 7, -1)
        picture[labels == 7] = disc
    objects = (SampleObject(7, "ball"),) if disc is not None else ()
    return Sample(picture[None], labels[None], objects, False, "made")


def made(seed, grounds=(plain(RED), plain(GREEN)), donors=(plain(RED, BLUE),)):
    return patchwork(grounds, donors, np.random.default_rng(seed), SIZE)


@pytest.mark.parametrize("seed", range(8))
def test_every_outline_is_that_of_what_is_seen(seed):
    sample = made(seed)
    assert sample.frames.shape == (1, *SIZE, 3) and sample.complete and sample.labels.min() >= 1
    kinds = {o.id: o.category for o in sample.objects}
    assert kinds[1] == kinds[2] == SURFACE and {o.id for o in sample.objects if not o.thing} == {1, 2}
    # ground 1 is red, ground 2 green, the objects blue: only where borders are soft may the colour be another's
    strongest = np.select([sample.labels[0] == 1, sample.labels[0] == 2], [0, 1], 2)
    window = np.ones((7, 7), np.uint8)
    inside = cv2.erode(sample.labels[0], window) == cv2.dilate(sample.labels[0], window)
    agreeing = sample.frames[0].argmax(-1) == strongest
    assert agreeing.mean() > 0.9 and inside.any() and agreeing[inside].all()


def test_objects_lie_over_surfaces_under_new_numbers():
    numbers = [[o.id for o in made(seed).objects if o.category == "ball"] for seed in range(20)]
    assert any(numbers) and all(number > 2 for found in numbers for number in found)


def test_the_same_generator_gives_the_same_bytes():
    first, again, other = made(3), made(3), made(4)
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, other.labels)


def test_even_parts_without_objects_are_taken_for_surfaces():
    corner = plain(RED)
    corner.frames[0, :45, :45], corner.labels[0, :45, :45] = BLUE, 7
    corner = Sample(corner.frames, corner.labels, (SampleObject(7, "box"),), False, "made")
    blue = [(made(seed, (corner,), ()).frames[0].argmax(-1) == 2).mean() for seed in range(20)]
    assert np.median(blue) == 0


def test_a_share_of_the_pictures_made_from_real_ones(tmp_path):
    sample = plain(RED, BLUE)
    cv2.imwrite(str(tmp_path / "0.png"), sample.frames[0][..., ::-1])
    cv2.imwrite(str(tmp_path / "0_mask.png"), sample.labels[0])
    line = {"file": "0.png", "mask": "0_mask.png", "width": 160, "height": 120, "source": "coco", "complete": False}
    objects = [{"id": 7, "category": "ball", "thing": True}]
    (tmp_path / "train.json").write_text(json.dumps({"pictures": [line | {"objects": objects}]}))
    mixture = TrainingMixture(1, tmp_path, SIZE, real_fraction=1.0, clip_fraction=0.0, patchwork=0.3)
    samples = [mixture.sample_at(i) for i in range(60)]
    assert 0.15 < np.mean([s.source == "patchwork" for s in samples]) < 0.45
    assert any(o.category == SURFACE and o.phrases for s in samples for o in s.objects)
