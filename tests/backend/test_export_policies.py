"""Several annotations, overlaps, numbers that stay, and runs that were stopped."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from exporting import CONFIG, Exporting, annotation, blob, content, drawn, items, pages, read, task
from PIL import Image
from pycocotools import mask as coco_mask
from workplace import ROOT

from backend.export_files import Output
from backend.export_staging import ExportError

RING = blob(hole=0)
WIDE = blob(hole=0, radius=14.0)
CORNER = np.zeros(RING.shape, bool)
CORNER[:15, :25] = True


@pytest.fixture
def export(tmp_path):
    return Exporting(tmp_path)


def masks(out):
    return [coco_mask.decode(one["segmentation"]).astype(bool) for one in read(out / "annotations.json")["annotations"]]


def three():
    """Three people: two agree on the cat, all differ a little; one alone saw a dog."""
    return task(
        1,
        annotation([drawn(RING, "a")], 1, 11, "2026-01-03"),
        annotation([drawn(RING, "b"), drawn(CORNER, "c", "dog")], 2, 12, "2026-01-02"),
        annotation([drawn(WIDE, "d")], 3, 13, "2026-01-01"),
    )


def test_the_latest_annotation_counts(export):
    out = export.run([three()], "coco")
    (found,) = masks(out)
    assert (found == RING).all()
    manifest = read(out / "manifest.json")
    assert manifest["skipped"] == {"older": {"count": 2, "first_tasks": [1]}}
    (source,) = manifest["items"][0]["tasks"][0]["sources"]
    assert (source["annotation"], source["annotator"], source["updated"]) == (1, 11, "2026-01-03")


def test_all_annotations(export):
    out = export.run([three()], "coco", "--annotations", "all")
    written = read(out / "annotations.json")["annotations"]
    assert len(written) == 4 and {one["attributes"]["annotator"] for one in written} == {11, 12, 13}


def test_two_annotations_of_one_person_stay_apart(export):
    twice = task(1, *(annotation([drawn(mask, "a")], n, 5) for n, mask in enumerate((RING, WIDE), 1)))
    written = read(export.run([twice], "coco", "--annotations", "all") / "annotations.json")["annotations"]
    assert len({one["id"] for one in written}) == len(written) == 2
    assert {one["attributes"]["object"] for one in written} == {1, 2}


def test_the_majority(export):
    out = export.run([three()], "coco", "--annotations", "majority")
    (found,) = masks(out)
    assert (found == RING).all()
    (one,) = read(out / "annotations.json")["annotations"]
    shared = RING.sum() / WIDE.sum()
    assert one["attributes"]["agreement"] == {"annotators": 3, "drew": 3, "overlap": round((2 + shared) / 3, 4)}
    manifest = read(out / "manifest.json")
    assert manifest["skipped"]["outvoted"]["count"] == 1
    assert manifest["items"][0]["objects"][0]["agreement"]["drew"] == 3


def test_the_majority_follows_tracks_over_pages(export):
    both = [annotation([*items(RING, page=0), *items(CORNER, page=1)], n, n) for n in (1, 2)]
    both.append(annotation(items(WIDE, page=0), 3, 3))
    out = export.run([pages(1, *both, count=2)], "ytvis", "--annotations", "majority")
    (track,) = read(out / "annotations.json")["annotations"]
    found = [coco_mask.decode(shape).astype(bool) for shape in track["segmentations"]]
    assert (found[0] == RING).all() and (found[1] == CORNER).all()


def test_two_must_agree(export):
    two = task(1, annotation([drawn(RING, "a")], 1, 1), annotation([drawn(WIDE, "b"), drawn(CORNER, "c")], 2, 2))
    (found,) = masks(export.run([two], "coco", "--annotations", "majority"))
    assert (found == (RING & WIDE)).all()


def test_objects_drawn_by_hand_in_another_order_are_the_same(export):
    low = CORNER[::-1].copy()
    low[RING] = True  # and what only one person drew touches the other object
    orders = [[CORNER, RING], [RING, CORNER], [low, RING, CORNER]]
    people = [
        annotation([drawn(mask, f"{n}{k}", page=0) for k, mask in enumerate(order)], n, n)
        for n, order in enumerate(orders, 1)
    ]
    out = export.run([pages(1, *people, count=1)], "coco", "--annotations", "majority")
    assert {found.tobytes() for found in masks(out)} == {CORNER.tobytes(), RING.tobytes()}


def test_two_objects_that_most_agree_on_never_have_one_name(export):
    orders = [[RING], [CORNER, RING], [RING, CORNER]]
    people = [
        annotation([drawn(mask, f"{n}{k}", page=0) for k, mask in enumerate(order)], n, n)
        for n, order in enumerate(orders, 1)
    ]
    out = export.run([pages(1, *people, count=1)], "coco", "--annotations", "majority")
    written = read(out / "annotations.json")["annotations"]
    assert len({one["id"] for one in written}) == len({one["attributes"]["object"] for one in written}) == 2


def test_what_most_drew_but_nowhere_the_same_is_told(export):
    issued = "obj0123456789-0000"
    people = [annotation([drawn(mask, issued, page=0)], n, n) for n, mask in enumerate((RING, WIDE & ~RING), 1)]
    export.run([pages(1, *people, count=1)], "coco", "--annotations", "majority")
    assert "objects that most annotators did not draw: 2" in export.said


def test_cancelled_annotations(export):
    entry = task(
        1, annotation([drawn(RING, "a")], 1), annotation([drawn(WIDE, "b")], 2, updated="2027", was_cancelled=True)
    )
    (found,) = masks(export.run([entry], "coco"))
    assert (found == RING).all() and "annotations that were skipped by their annotator: 1" in export.said
    (found,) = masks(export.run([entry], "coco", "--cancelled", out="with"))
    assert (found == WIDE).all()
    only = task(2, annotation([drawn(RING, "a")], 1, was_cancelled=True))
    assert not read(export.run([only], "coco", out="only") / "annotations.json")["images"]


@pytest.mark.parametrize(
    ("overlap", "below", "above"),
    [("keep", WIDE, CORNER), ("top", WIDE & ~CORNER, CORNER), ("small", WIDE & ~CORNER, CORNER)],
)
def test_overlaps(export, overlap, below, above):
    assert (WIDE & CORNER).any() and WIDE.sum() > CORNER.sum()
    entry = task(1, annotation([drawn(WIDE, "a"), drawn(CORNER, "b", "dog")]))
    found = masks(export.run([entry], "coco", "--overlap", overlap))
    assert (found[0] == below).all() and (found[1] == above).all()
    turned = task(1, annotation([drawn(CORNER, "b", "dog"), drawn(WIDE, "a")]))
    found = masks(export.run([turned], "coco", "--overlap", overlap, out="turned"))
    if overlap == "top":
        above, below = CORNER & ~WIDE, WIDE
    assert (found[0] == above).all() and (found[1] == below).all()


def test_pixels_that_nobody_gets(export):
    entry = task(1, annotation([drawn(RING, "a"), drawn(CORNER, "b", "dog")]))
    found = masks(export.run([entry], "coco", "--overlap", "void"))
    assert (found[0] == (RING & ~CORNER)).all() and (found[1] == (CORNER & ~RING)).all()
    painted = np.asarray(Image.open(export.run([entry], "png", "--overlap", "void", out="png") / "1.png"))
    assert ((painted == 255) == (RING & CORNER)).all()
    own = read(export.run([entry], "x2sam", "--overlap", "void", out="own") / "masks" / "000000.json")
    assert (coco_mask.decode(own["0"]["ignore"]).astype(bool) == (RING & CORNER)).all()


def test_a_frame_in_two_tasks_is_that_of_the_newest_annotation(export):
    old = pages(1, annotation([*items(RING, page=0), *items(RING, page=1)], 1, updated="2026-01-01"), count=2, start=0)
    new = pages(
        2, annotation([*items(CORNER, page=0), *items(CORNER, page=1)], 2, updated="2026-02-01"), count=2, start=1
    )
    out = export.run([old, new], "ytvis")
    (track,) = read(out / "annotations.json")["annotations"]
    found = [coco_mask.decode(shape).astype(bool) for shape in track["segmentations"]]
    assert [bool((one == CORNER).all()) for one in found] == [False, True, True]
    assert read(out / "manifest.json")["skipped"]["shadowed"] == {"count": 1, "first_tasks": [1]}


def test_a_stray_page_does_not_take_a_frame_of_the_next_task(export):
    stray = [*items(WIDE, page=0), *items(WIDE, page=4)]
    tasks = [
        pages(1, annotation(stray, 1, updated="2027"), start=0),
        pages(2, annotation(items(RING, page=1), 2, updated="2026"), start=3),
    ]
    (track,) = read(export.run(tasks, "ytvis") / "annotations.json")["annotations"]
    assert track["areas"] == [int(WIDE.sum()), None, None, None, int(RING.sum()), None]
    assert "regions on pages that their task does not have: 1 (task 1)" in export.said


def test_only_marked_pages(export):
    entry = pages(1, annotation(items(RING, page=1)))
    assert len(list((export.run([entry], "davis") / "Annotations").rglob("*.png"))) == 3
    marked = export.run([entry], "davis", "--pages", "marked", out="marked")
    assert [path.name for path in marked.rglob("*.png")] == ["00001.png"]


def test_numbers_stay_when_labels_and_objects_are_added(export):
    one = pages(1, annotation([drawn(RING, "m-0001", "monkey", 1)]))
    first = export.run([one], "davis")
    kept = read(first / "manifest.json")
    assert kept["categories"] == [{"id": 1, "name": "monkey", "thing": True}]
    more = pages(1, annotation([drawn(CORNER, "a-0000", "ape", 0), drawn(RING, "m-0001", "monkey", 1)]))
    again = export.run([more], "davis")
    manifest = read(again / "manifest.json")
    assert [(c["id"], c["name"]) for c in manifest["categories"]] == [(1, "monkey"), (2, "ape")]
    assert {o["name"]: o["id"] for o in manifest["items"][0]["objects"]} == {"m": 1, "a": 2}
    assert np.asarray(Image.open(again / "Annotations" / "task-1" / "00001.png")).max() == 1
    previous = export.folder / "kept.json"
    previous.write_text((again / "manifest.json").read_text())
    fresh = export.run([more], "coco", "--previous", previous, out="fresh")
    assert [c["name"] for c in read(fresh / "annotations.json")["categories"]] == ["monkey", "ape"]
    fresh = export.run([more], "coco", out="sorted")
    assert [c["name"] for c in read(fresh / "annotations.json")["categories"]] == ["ape", "monkey"]


def test_the_numbers_of_annotations_and_pictures_stay(export):
    tasks = [task(n, annotation([drawn(RING, f"a{n}")])) for n in (1, 2, 3)]
    whole = {one["id"]: one["image_id"] for one in read(export.run(tasks, "coco") / "annotations.json")["annotations"]}
    part = read(export.run(tasks[1:2], "coco", out="part") / "annotations.json")["annotations"]
    assert [(one["id"], one["image_id"]) for one in part] == [(k, v) for k, v in whole.items() if v == 20000]
    assert all(0 < number < 1 << 53 for number in whole)


def test_labels_of_the_configuration_are_categories_even_unused(export):
    xml = CONFIG.replace(
        'name="brush" toName="image"><Label value="cat"/>',
        'name="brush" toName="image"><Label value="sky" kind="stuff"/>',
    )
    out = export.run([task(1, annotation([drawn(RING, "a")]))], "coco", *export.config(xml))
    found = {one["name"]: one["isthing"] for one in read(out / "annotations.json")["categories"]}
    assert found == {"cat": 1, "dog": 1, "sky": 0}


def test_what_is_gone_is_removed_and_what_is_not_ours_stays(export):
    tasks = [task(n, annotation([drawn(RING, "a")])) for n in (1, 2)]
    out = export.run(tasks, "png")
    (out / "mine.png").write_bytes(b"x")
    export.run(tasks[1:], "png")
    assert {path.name for path in out.iterdir()} == {"2.png", "mine.png", "manifest.json"}
    numbers = export.run(tasks, "png", out="numbers") / "manifest.json"
    export.run(tasks[:1], "png", "--previous", numbers)
    assert {path.name for path in out.iterdir()} == {"1.png", "mine.png", "manifest.json"}
    export.run(tasks, "coco", code=2)
    assert "holds an export as png" in export.said


@pytest.mark.parametrize(
    ("kind", "name"),
    [("coco", "annotations.json"), ("davis", "Annotations"), ("png", "5.png"), ("x2sam", "masks"), ("png", "val.txt")],
)
def test_files_of_others_are_not_written_over(export, kind, name):
    (export.folder / "out").mkdir()
    (export.folder / "out" / name).write_bytes(b"precious")
    (export.folder / "out" / "picture.jpg").write_bytes(b"")
    out = export.run([task(1, annotation([drawn(RING, "a")]))], kind, code=2)
    assert f"{name} is there, and no export wrote it; choose another --out" in export.said
    assert (out / name).read_bytes() == b"precious" and len(list(out.iterdir())) == 2
    (out / name).unlink()
    export.run([task(1, annotation([drawn(RING, "a")]))], kind)


def test_where_all_that_was_proposed_is_deleted_nothing_is_there(export):
    proposed = {"id": 5, "model_version": "v1", "result": items(RING)}
    empty = task(1, annotation([], parent_prediction=5, prediction=proposed))
    of_another = task(2, annotation([], parent_prediction=4, prediction=proposed))
    out = export.run([empty, of_another], "coco")
    (picture,) = read(out / "annotations.json")["images"]
    assert (picture["task"], picture["height"], picture["width"]) == (1, *RING.shape)
    assert "an unknown size: 1 (task 2)" in export.said and not read(out / "annotations.json")["annotations"]
    assert (np.asarray(Image.open(export.run([empty], "png", out="maps") / "1.png")) == np.zeros(RING.shape)).all()


def test_a_video_that_is_gone_leaves_no_empty_folder(export):
    tasks = [pages(n, annotation(items(RING, page=0)), start=0, video=f"v{n}") for n in (1, 2)]
    out = export.run(tasks, "davis")
    (out / "Annotations" / "mine").mkdir()
    export.run(tasks[1:], "davis")
    assert {path.name for path in (out / "Annotations").iterdir()} == {"mine", "v2"}


def test_a_renewal_that_stopped_does_not_look_whole_and_keeps_the_numbers(export, monkeypatch):
    def rows(*labels):
        return [task(1, annotation([drawn(RING, label, label) for label in labels]))]

    whole = content(export.run(rows("b", "c"), "x2sam"))
    with monkeypatch.context() as broken:
        broken.setattr(Output, "wrote", lambda *_: (_ for _ in ()).throw(ExportError("the disk is full")))
        out = export.run(rows("a", "b", "d"), "x2sam", code=2)
        assert not (out / "manifest.json").exists()
        fresh = export.run(rows("c"), "x2sam", code=2, out="fresh")
    export.run(rows("c"), "png", code=2)
    assert "holds an export as x2sam" in export.said
    assert content(export.run(rows("b", "c"), "x2sam", "--previous", out / "manifest.json")) == whole
    categories = read(export.run(rows("a", "c"), "x2sam", out=fresh.name) / "manifest.json")["categories"]
    assert {one["name"]: one["id"] for one in categories} == {"a": 1, "c": 2}, "none was given before"


def test_a_run_that_was_killed_goes_on(export):
    tasks = [task(n, annotation([drawn(RING, "a"), drawn(CORNER, "b", "dog")])) for n in range(1, 3001)]
    whole = content(export.run(tasks, "png", out="whole"))
    line = [sys.executable, "-m", "backend", "export", "--from-json", str(export.folder / "tasks.json")]
    line += ["--format", "png", "--out", str(export.folder / "out")]
    process = subprocess.Popen(line, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 240
    while not list((export.folder / "out").glob("*.png")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    out = export.folder / "out"
    assert not (out / "manifest.json").exists() and (out / ".export.sqlite3").exists()
    changed = copy.deepcopy(tasks)
    changed[0]["annotations"][0]["updated_at"] = "2027"
    export.run(changed, "png")
    assert "(3000 tasks, 2999 of them read before)" in export.said
    export.run(tasks, "png")
    assert content(out) == whole


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "no list of tasks"),
        ("", "no"),
        ("[]", "no tasks to export"),
        ('[{"id": 1, "annotations": [', "not JSON, or was cut"),
        ('[{"image": "a.jpg"}]', "no task with a number at place 0"),
        ('[{"id": 1, "annotations": 3}]', "without a list of annotations"),
        ('[{"id": 1, "annotation_id": 5, "annotator": 1, "brush": [], "image": "a.jpg"}]', "not JSON-MIN"),
        ('[{"id": 1, "annotations": [], "data": ' + "[" * 2000 + "]" * 2000 + "}]", "too deep"),
        ('[{"id": 123456789012345678901234567890, "annotations": []}]', "not JSON, or was cut"),
        ('[{"id": 1, "annotations": []}, {"id": 1, "annotations": []}]', "Task 1 is there twice"),
    ],
)
def test_what_is_no_export_is_told(export, text, told):
    export.run(text, "coco", code=2)
    assert told in export.said and "Traceback" not in export.said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--splits", "train=0.5"], "make that 1"),
        (["--splits", "train"], "like train=0.8"),
        (["--overlap", "blend"], "--overlap"),
        (["--annotations", "best"], "--annotations"),
        (["--shapes", "circle"], "no shape 'circle'"),
        (["--video-size", "big"], "not like 1280x720"),
        (["--project", "1"], "either --project"),
        (["--previous", "nowhere.json"], "nowhere.json can't be read (No such file"),
        (["--json", "nowhere/result.json"], "result.json can't be written"),
    ],
)
def test_wrong_options_are_told(export, words, told):
    export.run([task(1, annotation([drawn(RING, "a")]))], "coco", *words, code=2)
    assert told in export.said


def test_an_unknown_format_is_told(export):
    export.run([task(1)], "yolo", code=2)
    assert "coco, ytvis, davis, png, x2sam" in export.said


def test_the_version_is_that_of_the_prediction_it_was_begun_from(export):
    current = {"id": 9, "model_version": "v2", "result": []}
    entries = [
        task(1, annotation([drawn(RING, "a")], 1, parent_prediction=9, prediction=current)),
        task(2, annotation([drawn(RING, "a")], 2, parent_prediction=8, prediction=current)),
        task(3, annotation([drawn(RING, "a")], 3, prediction=current)),
        task(4, annotation([drawn(RING, "a")], 4, parent_prediction=7)),
    ]
    entries[3]["predictions"] = [{"id": 7, "model_version": "v1"}]
    items = read(export.run(entries, "coco") / "manifest.json")["items"]
    assert [item["tasks"][0]["sources"][0]["model_version"] for item in items] == ["v2", None, None, "v1"]
