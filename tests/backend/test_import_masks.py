"""Masks of other people's files into a project: whose pictures they are, as what, and once only."""

from __future__ import annotations

import json

import numpy as np
import pytest
from exporting import CONFIG, Exporting, annotation, blob, drawn, items, pages, task
from PIL import Image
from pycocotools import mask as coco_mask

from backend.errors import LabelConfigError
from backend.export_staging import ExportError
from backend.import_masks import Wanted, bring
from backend.standing import overlap
from x2sam.errors import FramesError

RING = blob()
CORNER = np.zeros(RING.shape, bool)
CORNER[:15, :25] = True
PAGED = CONFIG.replace('value="$image"', 'valueList="$frames"')


class FakeApi:
    """What the import asks of Label Studio."""

    def __init__(self, tasks=(), xml=CONFIG):
        self.tasks, self.xml = [{"id": one["id"], "data": one["data"]} for one in tasks], xml
        self.sent = {"predictions": [], "annotations": []}

    def project(self, number):
        return {"id": number, "label_config": self.xml}

    def listed_data(self, number):
        return iter(self.tasks)

    def add_tasks(self, number, data):
        new = [{"id": 100 + len(self.tasks) + k, "data": dict(entry)} for k, entry in enumerate(data)]
        self.tasks += new
        return [one["id"] for one in new]

    def predictions(self, number):
        return [one for one in self.sent["predictions"] if one["task"] == number]

    def predict(self, bodies):
        self.sent["predictions"] += bodies
        return [len(self.sent["predictions"])] * len(bodies)

    def annotations(self, number):
        return [one for one in self.sent["annotations"] if one["task"] == number]

    def annotate(self, number, result):
        rows = [row | {"origin": "manual"} for row in result]
        self.sent["annotations"].append({"task": number, "result": rows, "id": number, "completed_by": 1})

    def exported(self):
        """The tasks as Label Studio would export them."""
        whole = []
        for one in self.tasks:
            own = [annotation(sent["result"], sent["id"]) for sent in self.annotations(one["id"])]
            whole.append({**one, "annotations": own})
        return whole


def import_into(api, source, form="coco", **given):
    return bring(api, Wanted(source, form, 1, **given), lambda *_: None)


def coco_file(path, *annotations, name="a.jpg", categories=("cat", "dog")):
    height, width = RING.shape
    content = {
        "images": [{"id": 1, "file_name": name, "width": width, "height": height}],
        "annotations": [{"id": n, "image_id": 1, "iscrowd": 0, **one} for n, one in enumerate(annotations, 1)],
        "categories": [{"id": n, "name": one} for n, one in enumerate(categories, 1)],
    }
    path.write_text(json.dumps(content))
    return path


def runs(mask):
    coded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": coded["counts"].decode()}


@pytest.mark.parametrize("kind", ["coco", "ytvis", "davis"])
def test_what_was_exported_comes_in_and_goes_out_again(tmp_path, kind):
    rows = [*items(RING, page=0), *items(CORNER, page=2), drawn(CORNER, "d-0001", "dog", 1)]
    tasks = [
        pages(3, annotation(rows), start=0),
        pages(5, annotation(items(RING, page=1)), count=2, start=3),
    ]
    export = Exporting(tmp_path)
    first = export.run(tasks, kind, out="first")
    api = FakeApi(tasks, PAGED)
    done = import_into(api, first, kind, kind="annotations")
    assert (done.tasks, done.masks, done.unknown) == (2, 4, 0)
    again = export.run(api.exported(), "davis", out="again")
    whole = export.run(tasks, "davis", out="whole")
    for file in sorted((whole / "Annotations").rglob("*.png")):
        one, other = (np.asarray(Image.open(path)) for path in (file, again / file.relative_to(whole)))
        assert ((one > 0) == (other > 0)).all()
    ids = {row["id"].rsplit("-", 1)[0] for a in api.sent["annotations"] for row in a["result"]}
    assert len(ids) == 2, "a track has one name over all tasks"


def test_a_video_that_was_imported_at_two_rates_keeps_its_masks_apart(tmp_path):
    tasks = [
        pages(3, annotation(items(RING, page=1)), start=0, video_fps=5),
        pages(5, annotation(items(CORNER, page=1)), start=0, video_fps=10),
    ]
    api = FakeApi(tasks, PAGED)
    done = import_into(api, Exporting(tmp_path).run(tasks, "davis"), "davis", label="cat", kind="annotations")
    assert (done.tasks, done.masks) == (2, 2)
    sent = {one["task"]: one["result"][0]["value"]["rle"] for one in api.sent["annotations"]}
    assert sent == {3: items(RING)[0]["value"]["rle"], 5: items(CORNER)[0]["value"]["rle"]}


def test_labels_that_differ_in_case_only_stay_apart(tmp_path):
    file = coco_file(tmp_path / "a.json", {"category_id": 1, "segmentation": runs(RING)}, categories=["cat"])
    api = FakeApi([task(1, image="/data/a.jpg")], CONFIG.replace('<Label value="cat"/>', '<Label value="Cat"/>'))
    import_into(api, file)
    api.xml = CONFIG.replace('<Label value="cat"/>', '<Label value="Cat"/><Label value="cat"/>')
    import_into(api, file, version="other")
    labels = [one["result"][0]["value"]["brushlabels"] for one in api.sent["predictions"]]
    assert labels == [["Cat"], ["cat"]]


def test_nothing_is_sent_twice(tmp_path):
    api = FakeApi([task(1)])
    source = coco_file(tmp_path / "f.json", {"category_id": 1, "segmentation": runs(RING)}, name="1.jpg")
    for kind in ("predictions", "annotations"):
        assert import_into(api, source, kind=kind).tasks == 1
        done = import_into(api, source, kind=kind)
        assert (done.tasks, done.there) == (0, 1) and len(api.sent[kind]) == 1
    changed = coco_file(tmp_path / "f.json", {"category_id": 1, "segmentation": runs(CORNER)}, name="1.jpg")
    assert import_into(api, changed).tasks == 1
    one, other = api.sent["predictions"]
    assert one["result"][0]["id"] == other["result"][0]["id"] and one["model_version"] == "imported"


def test_scores_polygons_and_labels_by_other_names(tmp_path):
    xml = CONFIG.replace('<Label value="cat"/>', '<Label value="cat" predicted_values="kitten,tabby"/>')
    outline = {"category_id": 1, "segmentation": [[5, 5, 30, 5, 30, 25, 5, 25]], "score": 0.25}
    source = coco_file(
        tmp_path / "f.json", outline, {"category_id": 2, "segmentation": runs(RING), "score": 0.75},
        {"category_id": 3, "segmentation": runs(RING)}, {"category_id": 1, "segmentation": runs(RING), "iscrowd": 1},
        name="1.jpg", categories=("Tabby", "DOG", "bird"),
    )  # fmt: skip
    api = FakeApi([task(1)], xml)
    done = import_into(api, source)
    assert done.unlabelled == {"bird": 1} and done.masks == 2
    (sent,) = api.sent["predictions"]
    assert sent["score"] == 0.25
    assert [row["value"]["brushlabels"] for row in sent["result"]] == [["cat"], ["dog"]]
    assert [row["score"] for row in sent["result"]] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("address", "name", "found"),
    [
        ("/data/upload/1/0a1b2c3d-cat.jpg", "cat.jpg", True),
        ("/data/upload/1/0a1b2c3d-cat.jpg", "images/cat.jpg", True),
        ("/data/local-files/?d=train/images/cat.png", "images/cat.jpg", True),
        ("s3://bucket/train/cat.jpg", "train/cat.jpg", True),
        ("/data/local-files/?d=cat.jpg", "dog.jpg", False),
    ],
)
def test_pictures_are_found_by_their_paths(tmp_path, address, name, found):
    api = FakeApi([task(1, image=address)])
    source = coco_file(tmp_path / "f.json", {"category_id": 1, "segmentation": runs(RING)}, name=name)
    if found:
        assert import_into(api, source).tasks == 1
    else:
        with pytest.raises(ExportError, match="No task of project 1 shows"):
            import_into(api, source)


def test_a_name_of_two_pictures_is_none(tmp_path):
    tasks = [task(n, image=f"/data/local-files/?d={folder}/cat.jpg") for n, folder in enumerate("ab", 1)]
    source = coco_file(tmp_path / "f.json", {"category_id": 1, "segmentation": runs(RING)}, name="cat.jpg")
    with pytest.raises(ExportError, match="No task"):
        import_into(FakeApi(tasks), source)
    exact = coco_file(tmp_path / "f.json", {"category_id": 1, "segmentation": runs(RING)}, name="b/cat.jpg")
    api = FakeApi(tasks)
    import_into(api, exact)
    assert api.sent["predictions"][0]["task"] == 2


def test_tasks_are_made_for_pictures_that_none_shows(tmp_path):
    api = FakeApi()
    source = coco_file(tmp_path / "f.json", {"category_id": 1, "segmentation": runs(RING)}, name="x/cat.jpg")
    for created in (1, 0):
        assert import_into(api, source, prefix="/data/local-files/?d=").created == created
    assert api.tasks[0]["data"] == {"image": "/data/local-files/?d=x/cat.jpg"}
    (sent,) = api.sent["predictions"]
    assert sent["task"] == api.tasks[0]["id"] and "item_index" not in sent["result"][0]


def test_a_long_video_becomes_several_tasks(tmp_path):
    folder = tmp_path / "Annotations" / "bear"
    folder.mkdir(parents=True)
    for frame in range(50):
        Image.fromarray((2 * CORNER).astype(np.uint8)).save(folder / f"{frame:05d}.png")
    api = FakeApi(xml=PAGED)
    done = import_into(api, tmp_path, "davis", prefix="p/")
    assert (done.created, done.tasks, done.masks) == (2, 2, 50)
    assert [one["data"]["start_frame"] for one in api.tasks] == [0, 48]
    rows = [row for one in api.sent["predictions"] for row in one["result"]]
    assert len({row["id"].split("-")[0] for row in rows}) == 1 and {row["value"]["brushlabels"][0] for row in rows} == {
        "dog"
    }
    assert import_into(api, tmp_path, "davis", label="cat").masks == 50


def test_frames_of_another_video_are_not_taken_for_ours(tmp_path):
    folder = tmp_path / "Annotations" / "bear"
    folder.mkdir(parents=True)
    Image.fromarray(CORNER.astype(np.uint8)).save(folder / "00000.png")
    other = pages(1, count=1)
    other["data"]["frames"] = ["/data/local-files/?d=dog/00000.jpg"]
    with pytest.raises(ExportError, match="No task"):
        import_into(FakeApi([other], PAGED), tmp_path, "davis")


def test_outlines_where_the_project_has_no_masks(tmp_path):
    tag = '<PolygonLabels name="p" toName="image"><Label value="cat"/></PolygonLabels>'
    xml = f'<View><Image name="image" value="$image"/>{tag}</View>'
    api = FakeApi([task(1)], xml)
    import_into(api, coco_file(tmp_path / "f.json", {"category_id": 1, "segmentation": runs(CORNER)}, name="1.jpg"))
    (sent,) = api.sent["predictions"]
    assert sent["result"][0]["type"] == "polygonlabels"
    out = Exporting(tmp_path).run([task(1, annotation(sent["result"]))], "png")
    assert overlap(np.asarray(Image.open(out / "1.png")) > 0, CORNER) > 0.95


def test_what_is_wrong_is_told(tmp_path):
    api = FakeApi([task(1)])
    source = coco_file(tmp_path / "f.json", {"category_id": 9, "segmentation": runs(RING)}, name="1.jpg")
    with pytest.raises(FramesError, match="none of the categories"):
        import_into(api, source)
    with pytest.raises(ExportError, match="There is no"):
        import_into(api, tmp_path / "nowhere")
    with pytest.raises(ExportError, match="'voc'; choose one of coco"):
        import_into(api, source, "voc")
    with pytest.raises(ExportError, match="'drafts'; choose one of predictions"):
        import_into(api, source, kind="drafts")
    with pytest.raises(LabelConfigError, match="no pictures"):
        import_into(FakeApi(xml='<View><Video name="v" value="$video"/></View>'), source)
    with pytest.raises(ExportError, match="no label 'bird'"):
        import_into(api, source, label="bird")
