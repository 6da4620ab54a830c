"""Variations of real pictures, clips made from one picture, and the resumable mixture."""

import json

import cv2
import numpy as np
import pytest

from x2sam.data.augment import augment, picture_to_clip, stretch
from x2sam.data.cutouts import box_to_hide, cut_out, fill_hole, lay_over, paste_objects, placement
from x2sam.data.masks import (
    IGNORE,
    MIN_VISIBLE,
    components,
    drop_small,
    label_centres,
    largest_component,
    mask_bbox,
    mask_iou,
    resize_labels,
)
from x2sam.data.mixture import TrainingMixture
from x2sam.data.scenes import generate_picture
from x2sam.errors import FramesError
from x2sam.structures import Sample, SampleObject

SIZE = (64, 96)
TONES = {1: (230, 20, 20), 2: (20, 200, 30), 3: (20, 40, 220)}


def coloured_sample(frames=1):
    """Every object has a colour of its own, so that a mask can be compared with the picture it belongs to."""
    labels = np.zeros((120, 160), np.uint8)
    labels[10:50, 10:60], labels[60:110, 80:150] = 1, 2
    cv2.circle(labels, (110, 30), 18, 3, -1)
    picture = np.full((120, 160, 3), 128, np.uint8)
    for k, tone in TONES.items():
        picture[labels == k] = tone
    objects = (SampleObject(1, "box"), SampleObject(2, "box"), SampleObject(3, "ball"))
    return Sample(np.stack([picture] * frames), np.stack([labels] * frames), objects, True, "made")


def agreement(sample, ids=(1, 2, 3)):
    """Share of pixels whose strongest colour is that of their label (grey ground left out)."""
    hits = total = 0
    for k in ids:
        pixels = sample.frames[sample.labels == k].astype(int)
        hits += np.count_nonzero(pixels.argmax(1) == np.argmax(TONES[k]))
        total += len(pixels)
    return hits / max(total, 1)


def check(sample, size, frames=1):
    assert sample.frames.shape == (frames, *size, 3) and sample.labels.shape == (frames, *size)
    assert sample.frames.dtype == sample.labels.dtype == np.uint8
    ids = {o.id for o in sample.objects}
    assert set(np.unique(sample.labels).tolist()) <= {0, IGNORE} | ids
    for k in ids:
        assert max(np.count_nonzero(frame == k) for frame in sample.labels) >= MIN_VISIBLE


def same(a, b):
    return np.array_equal(a.frames, b.frames) and np.array_equal(a.labels, b.labels) and a.objects == b.objects


def test_variations_move_picture_and_labels_together():
    coloured = []
    for seed in range(40):
        varied = augment(coloured_sample(), np.random.default_rng(seed), SIZE)
        check(varied, SIZE)
        assert varied.objects and same(varied, augment(coloured_sample(), np.random.default_rng(seed), SIZE))
        coloured.append(agreement(varied))
    # Two or three of 40 are grey or strongly tinted; in all others labels sit on their colours.
    assert np.median(coloured) > 0.97 and np.mean(np.array(coloured) > 0.9) > 0.85


def test_looks_from_close_by_show_one_object_large():
    labels = np.zeros((1, 120, 160), np.uint8)
    labels[0, 50:66, 20:36], labels[0, 90:100, 120:140] = 1, 2  # an eighth of the picture's sides at most
    small = Sample(np.zeros((1, 120, 160, 3), np.uint8), labels, coloured_sample().objects[:2], True, "made")
    for seed in range(40):
        varied = augment(small, np.random.default_rng(seed), SIZE, close=1.0)
        check(varied, SIZE)
        extents = [mask_bbox(varied.labels[0] == o.id) for o in varied.objects]
        assert max(max((x1 - x0) / SIZE[1], (y1 - y0) / SIZE[0]) for x0, y0, x1, y1 in extents) > 0.25


def test_variations_of_a_clip_share_their_geometry():
    varied = augment(coloured_sample(3), np.random.default_rng(5), SIZE)
    check(varied, SIZE, 3)
    assert np.array_equal(varied.labels[0], varied.labels[2])


def test_mirrored_pictures_get_new_expressions():
    sides = set()
    for seed in range(40):
        varied = augment(coloured_sample(), np.random.default_rng(seed), SIZE)
        _, centres = label_centres(varied.labels[0])
        for o in varied.objects:
            for phrase in o.phrases:
                if phrase.endswith("leftmost box"):
                    other = centres[3 - o.id][0]
                    assert centres[o.id][0] < other or not other
                    sides.add(o.id)
    assert sides == {1, 2}


def test_stretch_only_resizes():
    sample = stretch(coloured_sample(), np.random.default_rng(0), (60, 80))
    check(sample, (60, 80))
    assert mask_iou(sample.labels[0] == 1, np.pad(np.ones((20, 25), bool), ((5, 35), (5, 50)))) > 0.95


def test_clips_from_a_picture_keep_labels_on_their_objects():
    moved = 0
    for seed in range(20):
        clip = picture_to_clip(coloured_sample(), np.random.default_rng(seed), 4, SIZE)
        check(clip, SIZE, 4)
        assert agreement(clip) > 0.9 or np.ptp(clip.frames.astype(int), axis=-1).max() < 60
        moved += not np.array_equal(clip.labels[0], clip.labels[-1])
        assert same(clip, picture_to_clip(coloured_sample(), np.random.default_rng(seed), 4, SIZE))
    assert moved > 15


def test_donors_pass_through_the_clip_with_new_ids():
    donor = generate_picture(np.random.default_rng(3), (80, 80))
    new = 0
    for seed in range(10):
        clip = picture_to_clip(coloured_sample(), np.random.default_rng(seed), 3, SIZE, donor)
        check(clip, SIZE, 3)
        new += any(o.id > 3 for o in clip.objects)
    assert new >= 6


def test_no_frames_is_an_error():
    empty = Sample(np.zeros((0, 4, 4, 3), np.uint8), np.zeros((0, 4, 4), np.uint8), (), True, "film 7")
    with pytest.raises(FramesError, match="film 7"):
        augment(empty, np.random.default_rng(0))


def test_a_cutout_lands_where_the_matrix_says():
    cutout = cut_out(coloured_sample(), SampleObject(1, "box"))
    picture, labels = np.full((100, 100, 3), 128, np.uint8), np.zeros((100, 100), np.uint8)
    x, y = 20 - (10 - cutout.corner[0]), 30 - (10 - cutout.corner[1])
    assert lay_over(picture, labels, cutout, np.array([[1.0, 0, x], [0, 1.0, y]]), 9)
    assert mask_bbox(labels == 9) == (20, 30, 70, 70)
    assert picture[50, 40].tolist() == list(TONES[1]) and picture[50, 90].tolist() == [128, 128, 128]
    assert not lay_over(picture, labels, cutout, np.array([[1.0, 0, 500], [0, 1.0, 0]]), 8)


def test_holes_are_filled_with_what_is_around_them():
    sample = coloured_sample()
    filled = fill_hole(sample.frames[0], sample.labels[0] == 1)
    assert np.abs(filled[15:45, 15:55].astype(int) - 128).max() < 40
    assert np.array_equal(filled[60:], sample.frames[0][60:])


def test_pasted_objects_get_free_ids_and_hide_what_is_below():
    base, donor = coloured_sample(), coloured_sample()
    pasted = paste_objects(base, donor, np.random.default_rng(1), 2)
    check(pasted, (120, 160))
    assert {o.id for o in pasted.objects} > {1, 2, 3} and not np.array_equal(pasted.labels, base.labels)
    assert base.labels.max() == 3


def test_half_of_what_is_pasted_hides_a_part_of_something():
    """Objects 1 to 3 lie in the picture; of 400 boxes about half are drawn, each as often as its object is large."""
    sample, rng = coloured_sample(), np.random.default_rng(4)
    labels = sample.labels[0]
    boxes = [box_to_hide(labels, sample.objects, rng) for _ in range(400)]
    drawn = [box for box in boxes if box]
    assert 160 < len(drawn) < 240
    largest = max(sample.objects, key=lambda thing: np.count_nonzero(labels == thing.id))
    assert max(set(drawn), key=drawn.count) == mask_bbox(labels == largest.id)
    assert not any(box_to_hide(np.zeros_like(labels), sample.objects, rng) for _ in range(20))
    assert not any(box_to_hide(labels, (), rng) for _ in range(20))


def test_what_is_pasted_often_covers_the_only_object_there_is():
    """A hundredth of the picture, in its corner, where what is laid anywhere seldom comes; half is meant to cover."""
    labels, donor = np.zeros((100, 100), np.uint8), coloured_sample()
    labels[2:12, 2:12] = 1
    sample = Sample(np.full((1, 100, 100, 3), 128, np.uint8), labels[None], (SampleObject(1, "box"),), True, "made")
    pasted = [paste_objects(sample, donor, np.random.default_rng(seed), 1).labels[0] for seed in range(100)]
    covered = [np.count_nonzero(one[2:12, 2:12] == 1) < 100 for one in pasted]
    assert np.mean(covered) > 0.35


def test_what_hides_a_part_is_smaller_than_the_box_and_lies_in_it():
    cutout = cut_out(coloured_sample(), SampleObject(1, "box"))
    height, width = cutout.alpha.shape
    for seed in range(50):
        affine = placement(cutout, np.random.default_rng(seed), (100, 100), (60, 70, 90, 80))
        x, y = affine[:, :2] @ (width / 2, height / 2) + affine[:, 2]
        assert 60 <= x <= 90 and 70 <= y <= 80
        scale = np.sqrt(abs(np.linalg.det(affine[:, :2])))
        assert scale * max(height, width) <= 0.8 * 30 + 1e-9


def test_small_mask_utilities():
    mask = np.zeros((10, 12), bool)
    mask[1:3, 1:3], mask[5:9, 4:10] = True, True
    assert mask_bbox(mask) == (1, 1, 10, 9) and mask_bbox(np.zeros((3, 3), bool)) == (0, 0, 0, 0)
    assert largest_component(mask).sum() == 24 and not largest_component(np.zeros((3, 3), bool)).any()
    assert components(mask)[2][:, 4].tolist() == [24, 4] and len(components(mask, 5)[1]) == 1
    areas, centres = label_centres(np.where(mask, 7, 0).astype(np.uint8)[:, :10])
    assert areas[7] == 28 and centres[7].tolist() == [(4 * 2 + 24 * 7) / 28, (4 * 2 + 24 * 7) / 28]
    _, kept = drop_small(np.where(mask, 7, 3).astype(np.uint8)[None], [3, 7])
    assert kept == [3, 7] and drop_small(np.where(mask, 7, 0).astype(np.uint8)[None, :5], [7])[1] == []
    assert resize_labels(np.array([[1, 2], [3, 4]], np.uint8), (4, 4))[1].tolist() == [1, 1, 2, 2]
    assert mask_iou(mask, ~mask) == 0 and mask_iou(mask & ~mask, mask & ~mask) == 1


@pytest.fixture
def train_root(tmp_path):
    lines = []
    for k in range(3):
        sample = coloured_sample()
        for folder, content in (("images", sample.frames[0][..., ::-1]), ("masks", sample.labels[0])):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{k}.png"), content)
        objects = [{"id": o.id, "category": o.category, "thing": True} for o in sample.objects]
        lines.append({"file": f"images/{k}.png", "mask": f"masks/{k}.png", "width": 160, "height": 120,
                      "source": "coco", "complete": True, "objects": objects})  # fmt: skip
    (tmp_path / "train.json").write_text(json.dumps({"pictures": lines}))
    return tmp_path


def test_a_sample_depends_on_seed_and_index_only(train_root):
    mixture = TrainingMixture(7, train_root, SIZE, clip_fraction=0.4, frames=3)
    later = TrainingMixture(7, train_root, SIZE, clip_fraction=0.4, frames=3, start=5)
    for index, resumed in zip(range(5, 17), later, strict=False):
        assert same(mixture.sample_at(index), resumed)
    assert not same(mixture.sample_at(1), TrainingMixture(8, train_root, SIZE).sample_at(1))


def test_shares_of_the_mixture(train_root):
    mixture = TrainingMixture(1, train_root, SIZE, real_fraction=0.6, clip_fraction=0.25, frames=2)
    samples = [mixture.sample_at(i) for i in range(160)]
    for sample in samples:
        check(sample, SIZE, len(sample.frames))
    assert 0.45 < np.mean([s.source == "coco" for s in samples]) < 0.75
    assert 0.15 < np.mean([len(s.frames) == 2 for s in samples]) < 0.35


def test_without_real_pictures_everything_is_generated():
    stream = iter(TrainingMixture(3, None, SIZE, clip_fraction=0.5, frames=2))
    assert {next(stream).source for _ in range(12)} == {"scenes", "scene_clips"}


def test_shares_are_checked():
    with pytest.raises(ValueError, match="real_fraction"):
        TrainingMixture(0, real_fraction=1.5)
