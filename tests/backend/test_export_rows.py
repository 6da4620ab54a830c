"""Which rows of an annotation are regions, and whose."""

from __future__ import annotations

import numpy as np
import pytest
from exporting import CONFIG, Exporting, annotation, blob, drawn, items, pages, read, task

from backend.export_layout import layout_of, media_path, safe_name
from backend.export_rows import UNLABELLED, named, read_regions
from backend.label_config import parse_label_config

RING = blob()
PLACE = {"original_width": 60, "original_height": 40, "image_rotation": 0, "origin": "manual", "to_name": "image"}
BOX = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0}


def copy_of(item, kind, control):
    """What accepting leaves while a prompt's label is selected: the mask under the prompt's control."""
    value = {key: part for key, part in item["value"].items() if not key.endswith("labels")}
    return item | {"type": kind, "from_name": control, "origin": "manual", "value": {**value, kind: ["cat"]}}


def prompt(kind="rectanglelabels", control="box", name="p1", **value):
    value = value or (BOX if kind == "rectanglelabels" else {"x": 10, "y": 10, "width": 1})
    return PLACE | {"id": name, "type": kind, "from_name": control, "value": {**value, kind: ["cat"]}}


def test_copies_of_masks_are_left_out_whichever_comes_first():
    for control in ("brush", "bitmask", "polygon"):
        (item,) = items(RING, control)[:1]
        strays = [copy_of(item, "rectanglelabels", "box"), copy_of(item, "keypointlabels", "point")]
        for rows in ([item, *strays], [*strays, item]):
            regions, skipped = read_regions(rows)
            assert [region.shape for region in regions] == [control]
            assert skipped == {"copy": 2}


def test_a_box_that_was_copied_as_a_point_is_one_box():
    (item,) = items(RING, "rectangle")
    regions, skipped = read_regions([copy_of(item, "keypointlabels", "point"), item])
    assert [region.shape for region in regions] == ["rectangle"] and skipped == {"copy": 1}


def test_a_sentence_under_the_control_of_a_mask_is_no_mask():
    item = items(RING)[0]
    stray = item | {"value": {"text": ["Found it."], "brushlabels": ["cat"]}}
    regions, skipped = read_regions([stray, item])
    assert len(regions) == 1 and regions[0].value == item["value"] and skipped == {"copy": 1}


def test_the_same_row_twice_counts_once():
    item = items(RING)[0]
    regions, skipped = read_regions([item, dict(item)])
    assert len(regions) == 1 and skipped == {"copy": 1}


def test_open_prompts_are_left_out():
    rows = [drawn(RING, "a"), prompt(), prompt("keypointlabels", "point", "p2")]
    for config in (None, parse_label_config(CONFIG)):
        regions, skipped = read_regions(rows, config)
        assert [region.id for region in regions] == ["a"] and skipped == {"prompt": 2}


def test_boxes_of_a_tag_that_does_not_prompt_are_regions():
    rows = [drawn(RING, "a"), prompt(control="rectangle"), prompt(name="p2")]
    regions, skipped = read_regions(rows, parse_label_config(CONFIG))
    assert [region.id for region in regions] == ["a", "p1"] and skipped == {"prompt": 1}


def test_boxes_alone_are_regions_and_so_are_answers_as_boxes():
    regions, _ = read_regions([prompt(), prompt("keypointlabels", "point", "p2")])
    assert [region.shape for region in regions] == ["rectangle", "keypoint"]
    answer = items(RING, "rectangle")[0]
    regions, _ = read_regions([drawn(RING, "a"), answer])
    assert [region.shape for region in regions] == ["brush", "rectangle"]


def test_plain_tags_have_their_label_in_a_second_row():
    item = drawn(RING, "a")
    value = {"format": "rle", "rle": item["value"]["rle"]}
    rows = [item | {"type": "brush", "value": value}]
    rows.append(item | {"type": "labels", "from_name": "labels", "value": {**value, "labels": ["dog"]}})
    (region,), skipped = read_regions(rows)
    assert (region.shape, region.label) == ("brush", "dog") and not skipped
    (region,), _ = read_regions(rows[:1])
    assert region.label == UNLABELLED


def test_who_made_a_region():
    rows = [
        items(RING, name="obj0000000001")[0] | {"origin": "prediction"},
        items(RING, name="obj0000000002")[0] | {"origin": "prediction-changed"},
        items(RING, name="obj0000000003")[0] | {"origin": "manual"},
        drawn(RING, "a"),
    ]
    assert [r.origin for r in read_regions(rows)[0]] == ["untouched", "edited", "accepted", "drawn"]


def test_the_object_is_the_beginning_of_the_id_when_the_end_is_the_page():
    rows = [
        items(RING, name="obj0123456789", page=4)[0],
        items(RING, name="obj0123456789", page=5)[0] | {"id": "obj0123456789.2-0005"},
        drawn(RING, "dog-0007", page=7),
        drawn(RING, "x9-Zb3-0007", page=3),
    ]
    assert [region.object for region in read_regions(rows)[0]] == ["obj0123456789", "obj0123456789", "dog", ""]


def test_what_was_drawn_by_hand_joins_the_only_object_of_its_label():
    rows = [
        items(RING, page=0)[0], drawn(RING, "h1", page=1), drawn(RING, "h2", page=1), drawn(RING, "h3", "dog", 1),
        drawn(RING, "h4", "dog", 2), drawn(RING, "h5", page=0),
    ]  # fmt: skip
    names = named(read_regions(rows)[0], True)
    assert names == ["obj0123456789", "obj0123456789", "cat 2", "dog 1", "dog 1", "cat 1"]
    assert named(read_regions(rows[1:3])[0], False) == ["h1", "h2"]


@pytest.mark.parametrize("rows", [None, 5, [1, None], [{}], [{"type": "brushlabels", "value": 3}], [{"type": 1}]])
def test_what_is_no_row_is_passed_over(rows):
    assert read_regions(rows) == ([], {})


def test_what_can_not_be_had_is_counted_and_told(tmp_path):
    good = drawn(RING, "good")
    rows = [
        good,
        drawn(RING, "turned", image_rotation=90),
        drawn(RING, "broken") | {"value": {"rle": [1, 2], "brushlabels": ["cat"]}},
        drawn(np.zeros((40, 60), bool), "empty"),
        drawn(RING, "beyond", item_index=10**9),
    ]
    export = Exporting(tmp_path)
    manifest = read(export.run([task(7, annotation(rows))], "coco") / "manifest.json")
    told = {kind: {"count": 1, "first_tasks": [7]} for kind in ("turned", "damaged", "empty", "beyond")}
    assert manifest["skipped"] == told
    assert "regions that can't be read: 1 (task 7)" in export.said


def test_a_region_without_a_size_has_that_of_its_page(tmp_path):
    bare = drawn(RING, "b", "dog")
    for side in ("original_width", "original_height"):
        del bare[side]
    written = read(
        Exporting(tmp_path).run([task(1, annotation([drawn(RING, "a"), bare]))], "coco") / "annotations.json"
    )
    assert len(written["annotations"]) == 2
    manifest = read(Exporting(tmp_path).run([task(1, annotation([bare]))], "coco", out="two") / "manifest.json")
    assert manifest["skipped"]["unsized"] == {"count": 1, "first_tasks": [1]}


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/data/local-files/?d=frames/f%200.jpg", "frames/f 0.jpg"),
        ("/data/upload/3/0a1b2c3d-a.jpg", "upload/3/0a1b2c3d-a.jpg"),
        ("https://user:secret@host/pictures/a.jpg?signature=secret", "pictures/a.jpg"),
        ("http://backend/frames/0123456789abcdef/7.jpg?s=00ff", "frames/0123456789abcdef/7.jpg"),
        ("s3://bucket/deep/a.png", "deep/a.png"),
        ("/data/local-files/?d=../../etc/passwd", "etc/passwd"),
        ("data:image/png;base64,AAAA", "task-1"),
        ("http://[", "task-1"),
        ("", "task-1"),
    ],
)
def test_pictures_are_called_by_their_path(address, path):
    assert media_path(address, "task-1") == path


def test_names_of_videos_are_safe_and_stay_apart():
    assert safe_name("0123456789abcdef") == "0123456789abcdef"
    names = [
        safe_name(text) for text in ("../../etc", "..\\..\\etc", "task-3", "a/b", "a_b", "мой клип", "", "." * 300)
    ]
    assert len(set(names)) == len(names)
    assert all("/" not in name and not name.startswith(".") and 0 < len(name) < 100 for name in names)


def test_tasks_of_one_video_are_one_item():
    one, two = layout_of(pages(1, start=0)), layout_of(pages(2, start=3))
    assert one.item == two.item and (one.start, two.start) == (0, 3) and one.media[2] == "f/1-2.jpg"
    assert layout_of(pages(3)).item == "task:3" and layout_of(pages(3)).paged
    assert layout_of(pages(4, start=0, video_fps=5)).item != one.item
    assert layout_of(task(5, image="/data/a.jpg", video_id="v1", start_frame=0)).paged is False


def test_sizes_that_no_picture_has_make_no_maps(tmp_path):
    huge = drawn(RING, "a", original_width=(1 << 20) - 1, original_height=(1 << 20) - 1)
    told = task(2, annotation([]), image="/data/a.jpg", width=60_000, height=60_000)
    out = Exporting(tmp_path).run([task(1, annotation([huge])), told], "png")
    manifest = read(out / "manifest.json")
    assert not list(out.glob("*.png")) and not manifest["items"]
    assert manifest["skipped"]["unsized"]["count"] == 1 and manifest["skipped"]["sizeless"]["count"] == 2


def test_a_part_that_begins_beyond_all_videos_is_an_item_of_its_own():
    assert layout_of(pages(1, start=10**6 + 1)).item == "task:1"


def test_pages_that_the_task_does_not_tell_of_are_exported_all_the_same(tmp_path):
    export = Exporting(tmp_path)
    few = pages(4, annotation([*items(RING, page=0), *items(RING, page=7)]))
    other = task(5, annotation(items(RING, page=2)), somewhere="elsewhere")
    out = export.run([few, other], "ytvis")
    videos = {video["name"]: video for video in read(out / "annotations.json")["videos"]}
    assert videos["task-4"]["length"] == 8 and videos["task-4"]["file_names"][2:4] == ["f/4-2.jpg", "task-4/00003.jpg"]
    assert videos["task-5"]["length"] == 3


def test_masks_of_a_second_picture_are_not_put_on_the_first(tmp_path):
    xml = (
        '<View><Image name="left" value="$left"/><Image name="right" value="$right"/>'
        '<BrushLabels name="one" toName="left"><Label value="cat"/></BrushLabels>'
        '<BrushLabels name="two" toName="right"><Label value="cat"/></BrushLabels></View>'
    )
    rows = [drawn(RING, "a", to_name="left"), drawn(RING[:5], "b", to_name="right", from_name="two")]
    tasks, export = [task(1, annotation(rows), left="/data/l.jpg", right="/data/r.jpg")], Exporting(tmp_path)
    out = export.run(tasks, "coco", *export.config(xml))
    assert "regions on another picture of their task than its first one: 1" in export.said
    (one,) = read(out / "annotations.json")["annotations"]
    assert one["area"] == RING.sum()
    export.run(tasks, "coco", code=2, out="untold")
    assert "several pictures (left, right)" in export.said and "--label-config" in export.said


def test_ids_that_no_file_can_hold():
    (region,), _ = read_regions([drawn(RING, "a\ud800b")])
    assert region.id == "a?b"
