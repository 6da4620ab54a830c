"""Reading pictures with label maps: both layouts, weights, and files that are broken."""

import json
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest

from x2sam.data.readers.labelmaps import LabelMapDataset, held_out, plain_name
from x2sam.errors import FramesError


def write(root, name, picture, labels):
    for folder, suffix, content in (("images", "png", picture), ("masks", "png", labels)):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / folder / f"{name}.{suffix}"), content)


def entry(name, source="coco", **more):
    objects = [
        {"id": 1, "category": "wall-other-merged", "thing": False, "area": 60},
        {"id": 3, "category": "dog", "thing": True, "area": 60},
    ]
    return {"file": f"images/{name}.png", "mask": f"masks/{name}.png", "width": 20, "height": 12, "source": source,
            "complete": True, "objects": objects} | more  # fmt: skip


def picture_and_labels():
    picture = np.zeros((12, 20, 3), np.uint8)
    picture[..., 2] = 200  # OpenCV writes blue first: this is red
    labels = np.zeros((12, 20), np.uint8)
    labels[2:8, 1:11], labels[2:8, 12:20], labels[11] = 1, 3, 255
    return picture, labels


@pytest.fixture
def root(tmp_path):
    for name in ("coco/a", "coco/b", "belt/a"):
        write(tmp_path, name, *picture_and_labels())
    pictures = [entry("coco/a"), entry("coco/b", complete=False), *[entry("belt/a", "belt")] * 4]
    (tmp_path / "train.json").write_text(json.dumps({"sources": {}, "pictures": pictures}))
    return tmp_path


def test_a_sample_has_colours_labels_and_objects(root):
    dataset = LabelMapDataset(root)
    assert len(dataset) == 6
    sample = dataset[0]
    assert sample.frames.shape == (1, 12, 20, 3) and sample.frames[0, 0, 0].tolist() == [200, 0, 0]
    assert np.array_equal(sample.labels[0], picture_and_labels()[1])
    assert [(o.id, o.category, o.thing) for o in sample.objects] == [(1, "wall", False), (3, "dog", True)]
    assert sample.complete and sample.source == "coco" and not dataset[1].complete
    assert sample.objects[1].phrases and sample.objects == dataset[0].objects
    assert [o.phrases for o in dataset.bare(0).objects] == [(), ()]


def test_the_evaluation_layout(tmp_path):
    picture, labels = picture_and_labels()
    write(tmp_path, "coco/a", picture, np.where(labels == 255, 77, labels).astype(np.uint8))
    line = entry("coco/a", gt_kind="panoptic", ignore_label=77)
    line["image"] = line.pop("file")
    del line["source"], line["complete"]
    line["objects"][0]["eval"] = False
    (tmp_path / "images.json").write_text(json.dumps({"images": [line]}))
    dataset = LabelMapDataset(tmp_path)
    assert [o.evaluate for o in dataset.records[0].objects] == [False, True]
    assert dataset.index_of("images/coco/a.png") == 0
    sample = dataset[0]
    assert sample.source == "coco" and sample.complete and (sample.labels[0, 11] == 255).all()
    with pytest.raises(FramesError, match="not listed"):
        dataset.index_of("images/coco/zzz.png")


def test_sources_are_weighed_by_the_root_of_their_pictures(root):
    dataset = LabelMapDataset(root)
    weights = dataset.weights(boosts={})
    assert weights.sum() == pytest.approx(1) and weights[2:].sum() / weights[:2].sum() == pytest.approx(2**0.5)
    boosted = dataset.weights(boosts={"coco": 3.0})
    assert boosted[:2].sum() / boosted[2:].sum() == pytest.approx(3 / 2**0.5)
    assert dataset.weights("count", {})[0] == pytest.approx(1 / 6)
    assert dataset.weights("equal", {})[0] == pytest.approx(1 / 4)
    with pytest.raises(ValueError, match="sqrt"):
        dataset.weights("log")


def test_some_pictures_are_held_back(root):
    dataset = LabelMapDataset(root)
    dataset.records = tuple(replace(dataset.records[0], image=f"images/coco/{k}.png") for k in range(40))
    held = np.array([zlib.crc32(r.image.encode()) % 5 == 0 for r in dataset.records])
    assert 0 < held.sum() < 40 and [held_out(r, 5) for r in dataset.records] == held.tolist()
    kept = dataset.weights(boosts={}, hold_out=5)
    assert (kept[held] == 0).all() and np.allclose(kept[~held], 1 / (~held).sum())
    assert len({held_out(replace(r, sequence="film"), 5) for r in dataset.records}) == 1, "films stay together"
    assert not any(held_out(r, 0) for r in dataset.records)


def test_the_names_of_what_is_trained_on(root):
    belt = [{"id": 1, "category": "conveyor belt", "thing": False, "area": 60}]
    pictures = [entry("coco/a"), entry("belt/a", "belt", objects=belt)]
    (root / "train.json").write_text(json.dumps({"sources": {}, "pictures": pictures}))
    dataset = LabelMapDataset(root)
    assert dataset.names() == {"wall", "dog", "conveyor belt"}
    assert dataset.names(leave_out=("belt",)) == {"wall", "dog"}


def test_names_as_people_say_them():
    assert plain_name("wall-other-merged") == "wall" and plain_name("Dining-Table") == "dining table"
    assert plain_name("floor-wood") == "floor wood" and plain_name("kuih ketayap") == "kuih ketayap"


def test_broken_files_are_named(root):
    dataset = LabelMapDataset(root)
    (root / "images/coco/a.png").write_bytes(b"not a picture")
    with pytest.raises(FramesError, match=r"images/coco/a.png"):
        dataset[0]
    (root / "images/coco/b.png").unlink()
    with pytest.raises(FramesError, match=r"images/coco/b.png"):
        dataset[1]
    (root / "masks/belt/a.png").write_bytes(b"")
    with pytest.raises(FramesError, match=r"masks/belt/a.png"):
        dataset[2]


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        (np.zeros((12, 21), np.uint8), "sizes disagree"),
        (np.full((12, 20), 9, np.uint8), r"ids \[9\]"),
        (np.zeros((12, 20, 3), np.uint8), "one channel"),
        (np.zeros((12, 20), np.uint16), "one channel"),
    ],
)
def test_label_maps_that_do_not_fit(root, labels, hint):
    cv2.imwrite(str(root / "masks/coco/a.png"), labels)
    with pytest.raises(FramesError, match=hint):
        LabelMapDataset(root)[0]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{", "not JSON"),
        ("[]", "lists no pictures"),
        ('{"pictures": [{"file": "a.png"}]}', "lacks or garbles"),
        (json.dumps({"pictures": [entry("coco/a") | {"mask": "../../etc/passwd"}]}), "outside"),
        (json.dumps({"pictures": [entry("coco/a") | {"file": "/etc/passwd"}]}), "outside"),
    ],
)
def test_broken_lists(root, text, hint):
    (root / "train.json").write_text(text)
    with pytest.raises(FramesError, match=hint):
        LabelMapDataset(root)


def test_a_directory_without_a_list(tmp_path):
    with pytest.raises(FramesError, match=r"train.json"):
        LabelMapDataset(tmp_path)
