"""What each format holds, as its usual readers see it."""

from __future__ import annotations

import numpy as np
import pytest
from exporting import CONFIG, Exporting, annotation, blob, content, drawn, items, pages, read, task
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backend.export_maps import palette
from backend.video_boxes import track_value
from x2sam.data.readers import DatasetSpec, open_dataset

RING = blob()
CORNER = np.zeros(RING.shape, bool)
CORNER[:15, :25] = True
EMPTY = np.zeros(RING.shape, bool)


@pytest.fixture
def export(tmp_path):
    return Exporting(tmp_path)


def video_tasks():
    """Five frames of a video in two tasks; the cat is on four of them, the dog on one."""
    first = [*items(RING, page=0), *items(CORNER, page=2), drawn(CORNER, "dog-0001", "dog", 1)]
    second = [*items(RING, page=0), *items(CORNER, page=1)]
    return [pages(5, annotation(second, 2), count=2, start=3), pages(3, annotation(first, 1), start=0)]


def test_pycocotools_reads_and_scores_the_coco_file(export):
    rows = [drawn(RING, "a"), drawn(CORNER, "b", "dog")]
    out = export.run([task(3, annotation(rows)), task(4, annotation([])), task(5, annotation(rows[:1]))], "coco")
    truth = COCO(out / "annotations.json")
    assert [image["file_name"] for image in truth.loadImgs(truth.getImgIds())] == [
        "upload/1/abcd1234-3.jpg", "upload/1/abcd1234-5.jpg",
    ]  # fmt: skip
    found = [
        {key: one[key] for key in ("image_id", "category_id", "segmentation")} | {"score": 0.9}
        for one in truth.anns.values()
    ]
    score = COCOeval(truth, truth.loadRes(found), "segm")
    score.evaluate()
    score.accumulate()
    score.summarize()
    assert score.stats[0] == pytest.approx(1)
    one = truth.anns[truth.getAnnIds(imgIds=30000, catIds=1)[0]]
    assert one["area"] == RING.sum() and one["bbox"] == [19, 9, 41, 23]
    assert read(out / "manifest.json")["skipped"] == {"sizeless": {"count": 1, "first_tasks": [4]}}


def test_supervision_reads_the_coco_file(export, tmp_path):
    supervision = pytest.importorskip("supervision", reason="pip install supervision")
    mask = blob()
    out = export.run([task(1, annotation(items(mask)))], "coco")
    (picture,) = read(out / "annotations.json")["images"]
    path = tmp_path / "pictures" / picture["file_name"]
    path.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(path)
    annotations = str(out / "annotations.json")
    data = supervision.DetectionDataset.from_coco(str(tmp_path / "pictures"), annotations, force_masks=True)
    ((_, _, found),) = list(data)
    assert (found.mask[0] == mask).all() and data.classes[found.class_id[0]] == "cat"


def test_every_kind_of_region_is_in_the_coco_file(export):
    size = {"original_width": 60, "original_height": 40, "image_rotation": 0, "to_name": "image", "origin": "manual"}
    shapes = {
        "ellipse": {"x": 50, "y": 50, "radiusX": 20, "radiusY": 20, "rotation": 0},
        "rectangle": {"x": 10, "y": 10, "width": 50, "height": 50, "rotation": 0},
        "polygon": {"points": [[10, 10], [90, 10], [50, 90]], "closed": True},
        "keypoint": {"x": 50, "y": 25, "width": 2},
    }
    rows = [
        size | {"id": kind, "type": f"{kind}labels", "from_name": kind, "value": {**value, f"{kind}labels": ["cat"]}}
        for kind, value in shapes.items()
    ]
    rows += [*items(RING, "bitmask"), drawn(RING, "brush")]
    xml = CONFIG.replace(
        "</View>", '<KeyPointLabels name="keypoint" toName="image"><Label value="cat"/></KeyPointLabels></View>'
    )
    out = export.run([task(1, annotation(rows))], "coco", *export.config(xml))
    found = {one["attributes"]["shape"]: one for one in read(out / "annotations.json")["annotations"]}
    assert set(found) == {*shapes, "bitmask", "brush"}
    assert found["rectangle"]["bbox"] == [6, 4, 30, 20] and found["rectangle"]["area"] == 600
    assert found["keypoint"]["keypoints"] == [30, 10, 2]
    assert abs(found["ellipse"]["area"] - np.pi * 12 * 8) < 10 and abs(found["polygon"]["area"] - 768) < 30
    only = export.run(
        [task(1, annotation(rows))], "coco", *export.config(xml), "--shapes", "polygon, brush", out="some"
    )
    assert {one["attributes"]["shape"] for one in read(only / "annotations.json")["annotations"]} == {
        "polygon",
        "brush",
    }


def test_a_track_is_one_entry_over_all_tasks_of_its_video(export):
    written = read(export.run(video_tasks(), "ytvis") / "annotations.json")
    (video,) = written["videos"]
    assert (video["length"], video["height"], video["width"], video["tasks"]) == (5, 40, 60, [3, 5])
    assert video["file_names"] == ["f/3-0.jpg", "f/3-1.jpg", "f/3-2.jpg", "f/5-0.jpg", "f/5-1.jpg"]
    names = {one["id"]: one["name"] for one in written["categories"]}
    tracks = {names[one["category_id"]]: one for one in written["annotations"]}
    assert set(tracks) == {"cat", "dog"}
    masks = {0: RING, 2: CORNER, 3: RING, 4: CORNER}
    for frame, shape in enumerate(tracks["cat"]["segmentations"]):
        found = coco_mask.decode(shape).astype(bool) if shape is not None else None
        assert (found == masks[frame]).all() if frame in masks else found is None
    assert tracks["dog"]["areas"] == [None, int(CORNER.sum()), None, None, None]
    assert tracks["cat"]["bboxes"][2] == [0, 0, 25, 15]


def test_our_own_reader_takes_the_youtube_vis_file(export):
    out = export.run(video_tasks(), "ytvis")
    for name in read(out / "annotations.json")["videos"][0]["file_names"]:
        path = export.folder / "media" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(path)
    spec = DatasetSpec("own", "ytvis", "objseg", annotations=out / "annotations.json", images=export.folder / "media")
    (sample,) = list(open_dataset(spec))
    assert sample.masks.shape == (5, 2, 40, 60)
    assert (sample.masks[0].any(0) == RING).all()


def test_davis_folders(export):
    out = export.run(video_tasks(), "davis", "--splits", "train=1")
    files = sorted((out / "Annotations").rglob("*.png"))
    assert [str(file.relative_to(out)) for file in files] == [f"Annotations/v1/{frame:05d}.png" for frame in range(5)]
    pictures = [Image.open(file) for file in files]
    assert all(picture.mode == "P" and bytes(picture.getpalette()) == palette() for picture in pictures)
    maps = [np.asarray(picture) for picture in pictures]
    assert all((maps[frame] == RING).all() for frame in (0, 3)) and (maps[1] == 2 * CORNER).all()
    assert palette()[:15] == bytes([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128])
    assert (out / "ImageSets" / "train.txt").read_text() == "v1\n"


def test_label_maps(export):
    rows = [drawn(RING, "a", "dog"), drawn(CORNER, "b", "cat"), drawn(CORNER[::-1], "c", "cat")]
    tasks = [task(3, annotation(rows)), pages(8, annotation(items(RING, page=1)), count=2)]
    out = export.run(tasks, "png")
    assert {path.name for path in out.glob("*.png")} == {"3.png", "8-00000.png", "8-00001.png"}
    found = np.asarray(Image.open(out / "3.png"))
    painted = np.where(RING, 2, 0)
    painted[CORNER | CORNER[::-1]] = 1
    assert (found == painted).all()
    assert not np.asarray(Image.open(out / "8-00000.png")).any()
    objects = np.asarray(Image.open(export.run(tasks, "png", "--values", "object", out="objects") / "3.png"))
    assert set(np.unique(objects)) == {0, 1, 2, 3}


def test_more_categories_than_a_byte_holds(export):
    rows = []
    for number in range(256):
        mask = EMPTY.copy()
        mask.flat[number] = True
        rows.append(drawn(mask, f"r{number}", f"c{number:03d}"))
    out = export.run([task(1, annotation(rows)), task(2, annotation(rows[:1]))], "png")
    found = np.asarray(Image.open(out / "1.png"))
    assert found.max() == 256 and found.dtype != np.uint8
    assert np.asarray(Image.open(out / "2.png")).dtype == found.dtype
    export.run([task(1, annotation(rows))], "davis", out="davis", code=2)
    assert "above 254" in export.said and not (export.folder / "davis" / "manifest.json").exists()


def test_the_training_layout_is_read_back(export):
    photo = task(9, annotation([drawn(RING, "a"), drawn(CORNER, "b", "dog")]))
    out = export.run([photo, *video_tasks()], "x2sam", "--splits", "train=1")
    manifest = read(out / "manifest.json")
    for item in manifest["items"]:
        for name in [item["media"]] if "media" in item else item["frames"]:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (60, 40)).save(out / name)
    spec = dict(name="own", format="x2sam", annotations=out, split="train")
    (picture,) = list(open_dataset(DatasetSpec(task="intseg", **spec)))
    assert (picture.masks.any((0, 1)) == (RING | CORNER)).all()
    (clip,) = list(open_dataset(DatasetSpec(task="objseg", **spec)))
    assert clip.masks.shape == (5, 2, 40, 60) and (clip.masks[3].any(0) == RING).all()
    item = next(item for item in manifest["items"] if item["id"] == "v1")
    assert item["export"]["objects"][0]["accepted"] == "0,2-4" and item["labelled"] == [0, 1, 2, 3, 4]


def test_boxes_of_a_video_tag(export):
    boxes = [None, (6.0, 4.0, 36.0, 24.0), (12.0, 4.0, 42.0, 24.0), None]
    value = track_value(boxes, (40, 60), 10, ["cat"])
    row = {"id": "k1", "type": "videorectangle", "from_name": "box", "to_name": "video", "origin": "manual"}
    film = task(2, annotation([row | {"value": value}]), video="/data/upload/1/a.mp4", video_fps=10)
    written = read(export.run([film], "ytvis", "--video-size", "60x40") / "annotations.json")
    (track,) = written["annotations"]
    assert track["bboxes"] == [None, [6, 4, 30, 20], [12, 4, 30, 20], None] and track["length"] == 4
    own = read(export.run([film], "x2sam", "--video-size", "60x40", out="own") / "manifest.json")
    assert own["items"][0]["media"] == "upload/1/a.mp4" and own["items"][0]["modality"] == "video"
    export.run([film], "ytvis", out="unknown")
    assert "unknown size" in export.said


def film(number, boxes, address="/data/upload/1/a.mp4"):
    value = track_value(boxes, (40, 60), 10, ["cat"])
    row = {"id": "k1", "type": "videorectangle", "from_name": "box", "to_name": "video", "origin": "manual"}
    return task(number, annotation([row | {"value": value}]), video=address, video_fps=10)


def test_a_film_whose_address_is_not_known_has_a_name(export):
    out = export.run([film(2, [(6.0, 4.0, 36.0, 24.0)] * 3, "elsewhere")], "x2sam", "--video-size", "60x40")
    assert read(out / "manifest.json")["items"][0]["media"] == "task-2"


def test_frames_of_long_films_have_numbers_of_their_own(export):
    last = [None] * 10_004 + [(1.0, 1.0, 3.0, 3.0)]
    words = ("--video-size", "60x40", "--pages", "marked")
    written = read(export.run([film(1, last), film(2, last[10_000:])], "coco", *words) / "annotations.json")
    assert len({one["id"] for one in written["images"]}) == len(written["images"]) == 2
    assert {one["image_id"] for one in written["annotations"]} == {one["id"] for one in written["images"]}
    assert all(one["id"] < 1 << 53 for one in written["images"])


def test_lists_of_splits_name_only_what_is_there(export):
    out = export.run([*video_tasks(), pages(9, annotation([]))], "davis", "--splits", "train=1")
    assert (out / "ImageSets" / "train.txt").read_text() == "v1\n"
    assert "of 1 picture or video" in export.said


def test_splits_are_by_what_is_shown_and_stay(export):
    tasks = [task(n, annotation([drawn(RING, "a")])) for n in range(1, 61)]
    tasks += video_tasks()
    for number, one in enumerate(tasks, 100):
        one["id"] = number
    split = ("--splits", "train=0.7,val=0.3")
    out = export.run(tasks, "coco", *split)
    whole, parts = read(out / "annotations.json"), [read(out / f"annotations_{name}.json") for name in ("train", "val")]
    names = [{image["file_name"] for image in part["images"]} for part in parts]
    assert not names[0] & names[1] and names[0] | names[1] == {image["file_name"] for image in whole["images"]}
    assert 10 <= len(names[1]) <= 30
    assert sum(any(name.startswith("f/") for name in part) for part in names) == 1, "a video is in one split"
    for number, one in enumerate(reversed(tasks), 500):
        one["id"] = number
    again = read(export.run(tasks[:40], "coco", *split, out="again") / "annotations_val.json")
    assert {image["file_name"] for image in again["images"]} <= names[1]


@pytest.mark.parametrize("kind", ["coco", "ytvis", "davis", "png", "x2sam"])
def test_the_same_project_gives_the_same_bytes(export, kind):
    rows = [drawn(RING, "a"), drawn(CORNER, "b", "dog")]
    tasks = [task(9, annotation(rows), annotation(rows[:1], 2, 2)), *video_tasks()]
    one = content(export.run(tasks, kind, out="one"))
    other = content(export.run([dict(reversed(entry.items())) for entry in reversed(tasks)], kind, out="other"))
    assert one == other and len(one) > 1
    assert content(export.run(tasks, kind, out="one")) == one
    assert not [name for name in one if name.startswith(".")]


def test_pages_of_different_sizes_keep_them_where_the_format_can(export):
    small = np.eye(20, 30, dtype=bool)
    entry = pages(2, annotation([*items(RING, page=0), *items(small, page=1, label="dog")]), count=2)
    written = read(export.run([entry], "coco") / "annotations.json")
    assert [(image["height"], image["width"]) for image in written["images"]] == [(40, 60), (20, 30)]
    assert [one["segmentation"]["size"] for one in written["annotations"]] == [[40, 60], [20, 30]]
    assert (coco_mask.decode(written["annotations"][1]["segmentation"]) == small).all()
    track = read(export.run([entry], "ytvis", out="one") / "annotations.json")["annotations"][0]
    assert [shape["size"] for shape in track["segmentations"]] == [[40, 60], [40, 60]]
