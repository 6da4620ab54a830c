"""Submitted masks out of a real Label Studio: accepted, corrected and drawn, through the API and through its export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image
from pycocotools import mask as coco_mask
from workplace import ROOT

from backend.label_config import parse_label_config
from backend.label_studio_api import LabelStudioApi
from backend.results import Place, region_items
from backend.settings import Settings
from x2sam.structures import Mask

SIZE = (240, 320)
PAGES = 3


def config(name):
    return (ROOT / "label_config" / f"{name}.xml").read_text(encoding="utf-8")


def disc(page, hole=8):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    away = np.hypot(x - 100 - 40 * page, y - 120)
    return (away < 60) & (away >= hole)


def items(xml, control, object_id, mask, page, label="Object 1"):
    tag = parse_label_config(xml).controls[control]
    return region_items(tag, Place(object_id, "image", label, SIZE, page), Mask(mask, 0.75))


def run(server, *words, code=0):
    environment = os.environ | {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": server.token}
    command = [sys.executable, "-m", "backend", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    assert server.token not in done.stdout + done.stderr
    return done.stdout + done.stderr


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module", params=["video_frames", "video_frames_brush"])
def video(request, label_studio):
    """A project with two tasks of one video; the second begins where the first ends. Their masks by frame."""
    xml = config(request.param)
    project = label_studio.create_project(f"export {request.param}", xml)
    label_studio.serve_folder(project, label_studio.files_root / "made")
    pages = [f"/data/local-files/?d=made/page{page}.jpg" for page in range(PAGES)]
    data = [{"frames": pages, "video_id": "0123456789abcdef", "start_frame": PAGES * k} for k in range(2)]
    tasks = label_studio.import_tasks(project, data)
    masks = {}
    for number, task in enumerate(tasks):
        found = []
        for page in range(PAGES):
            masks[PAGES * number + page] = disc(page, 8 + 4 * number)
            found += items(xml, "mask", "obj0123456789", masks[PAGES * number + page], page)
        prediction = {"task": task, "result": found, "score": 0.5, "model_version": "v1"}
        begun = label_studio.api("POST", "/api/predictions/", prediction)["id"]
        # else Label Studio's own export does not tell the version
        label_studio.api("PATCH", f"/api/projects/{project}/", {"model_version": "v1"})
        submitted = [item | {"origin": "prediction"} for item in found]
        masks[PAGES * number + 1] = disc(1, 30)
        submitted[1] = items(xml, "mask", "obj0123456789", disc(1, 30), 1)[0] | {"origin": "prediction-changed"}
        stray = submitted[0] | {"type": "rectanglelabels", "from_name": "box", "origin": "manual"}
        text = {key: value for key, value in submitted[0].items() if key != "value"}
        body = {"result": [*submitted, stray, text | {"value": {"text": ["Found it."], "labels": ["Object 1"]}}]}
        label_studio.api("POST", f"/api/tasks/{task}/annotations/", body | {"parent_prediction": begun})
    return project, tasks, masks


def test_a_track_over_two_tasks(label_studio, video, tmp_path):
    project, tasks, masks = video
    said = run(label_studio, "export", "--project", project, "--format", "ytvis", "--out", tmp_path)
    assert f"{2 * PAGES} masks of 1 picture or video" in said
    assert "rows that copy another one, or hold no pixels: 4" in said
    written = json.loads((tmp_path / "annotations.json").read_text())
    (film,), (track,) = written["videos"], written["annotations"]
    assert film["length"] == 2 * PAGES and film["file_names"][4] == "made/page1.jpg"
    for frame, shape in enumerate(track["segmentations"]):
        assert (coco_mask.decode(shape).astype(bool) == masks[frame]).all()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (item,) = manifest["items"]
    assert item["objects"][0]["untouched"] == "0,2-3,5" and item["objects"][0]["edited"] == "1,4"
    assert [task["task"] for task in item["tasks"]] == tasks
    assert {source["model_version"] for task in item["tasks"] for source in task["sources"]} == {"v1"}


def test_the_api_and_label_studios_own_export_give_the_same_bytes(label_studio, video, tmp_path):
    project, _, masks = video
    address = f"{label_studio.url}/api/projects/{project}/export?exportType=JSON&download_all_tasks=true"
    answer = requests.get(address, headers={"Authorization": f"Token {label_studio.token}"}, timeout=120)
    assert answer.status_code == 200
    (tmp_path / "tasks.json").write_bytes(answer.content)
    xml = label_studio.api("GET", f"/api/projects/{project}/")["label_config"]
    (tmp_path / "config.xml").write_text(xml)
    given = {"api": ["--project", project]}
    given["file"] = ["--from-json", tmp_path / "tasks.json", "--label-config", tmp_path / "config.xml"]
    for name, source in given.items():
        run(label_studio, "export", *source, "--format", "davis", "--out", tmp_path / name)
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in given]
    told = [[task["sources"] for task in manifest["items"][0]["tasks"]] for manifest in manifests]
    assert told[0] == told[1]
    assert content(tmp_path / "api") == content(tmp_path / "file")
    for frame, mask in masks.items():
        file = tmp_path / "api" / "Annotations" / "0123456789abcdef" / f"{frame:05d}.png"
        assert (np.asarray(Image.open(file)) == mask).all()


def test_tasks_change_their_stamp_when_an_annotation_does(label_studio, video):
    """What lets a run that was stopped leave out tasks that it has."""
    project, tasks, _ = video
    settings = Settings(label_studio_url=label_studio.url, label_studio_api_key=label_studio.token)
    api = LabelStudioApi(settings)
    before = dict(api.listing(project))
    assert list(before) == tasks
    (annotation,) = label_studio.api("GET", f"/api/tasks/{tasks[1]}/annotations/")
    label_studio.api("PATCH", f"/api/annotations/{annotation['id']}/", {"result": annotation["result"]})
    after = dict(api.listing(project))
    assert after[tasks[0]] == before[tasks[0]] and after[tasks[1]] != before[tasks[1]]
    (whole,) = api.whole_tasks(project, tasks[1:])
    assert whole["annotations"][0]["result"] == annotation["result"] and whole["data"]["frames"][0].startswith("/data/")


def test_what_is_wrong_is_told(label_studio, tmp_path):
    said = run(label_studio, "export", "--project", 99999, "--format", "coco", "--out", tmp_path, code=2)
    assert "does not know project 99999" in said and "Traceback" not in said


@pytest.mark.parametrize("kind", ["predictions", "annotations"])
def test_masks_of_a_file_and_back(label_studio, kind, tmp_path):
    """DAVIS folders into an empty project, as tasks of pages; run twice; what was sent is exported again."""
    xml = config("video_frames")
    project = label_studio.create_project(f"import {kind}", xml)
    label_studio.serve_folder(project, label_studio.files_root / "made")
    folder = tmp_path / "given" / "Annotations" / "made"
    folder.mkdir(parents=True)
    for page in range(PAGES):
        labels = disc(page).astype(np.uint8)
        labels[:20, :20] = 2
        Image.fromarray(labels).save(folder / f"{page:05d}.png")
    line = ["import-masks", tmp_path / "given", "--format", "davis", "--project", project, "--as", kind]
    line += ["--media-prefix", "/data/local-files/?d="]
    assert f"6 masks as {kind} of 1 task in project {project}, 1 task made" in run(label_studio, *line)
    assert "0 masks" in (again := run(label_studio, *line)) and "1 had them already" in again
    (task,) = label_studio.api("GET", f"/api/tasks?project={project}&fields=all")["tasks"]
    assert task["data"]["frames"][2] == "/data/local-files/?d=made/00002.jpg"
    assert len(task[kind]) == 1 and not LabelInterface(xml).validate_prediction(task[kind][0], return_errors=True)
    if kind == "predictions":
        return
    run(label_studio, "export", "--project", project, "--format", "davis", "--out", tmp_path / "out")
    for file in folder.iterdir():
        found = np.asarray(Image.open(tmp_path / "out" / "Annotations" / "made" / file.name))
        assert (found == np.asarray(Image.open(file))).all()


def test_many_tasks_some_of_them_skipped(label_studio, tmp_path):
    xml = config("image_clicks")
    project = label_studio.create_project("export pictures", xml)
    label_studio.serve_folder(project, label_studio.files_root / "made")
    tasks = label_studio.import_tasks(project, [{"image": "/data/local-files/?d=made/upright.png"}] * 21)
    for task in tasks[::2]:
        result = items(xml, "mask", f"obj{task:010x}", disc(task % 3), None, "Object")
        body = {"result": result, "was_cancelled": task == tasks[4]}
        label_studio.api("POST", f"/api/tasks/{task}/annotations/", body)
    said = run(label_studio, "export", "--project", project, "--format", "coco", "--out", tmp_path)
    assert "10 masks of 10 pictures and videos" in said and "(21 tasks)" in said
    assert f"annotations that were skipped by their annotator: 1 (task {tasks[4]})" in said
    written = json.loads((tmp_path / "annotations.json").read_text())
    assert [image["task"] for image in written["images"]] == [task for task in tasks[::2] if task != tasks[4]]
    for image, one in zip(written["images"], written["annotations"], strict=True):
        assert image["file_name"] == "made/upright.png" and one["image_id"] == image["id"] == image["task"] * 10_000
        assert (coco_mask.decode(one["segmentation"]).astype(bool) == disc(image["task"] % 3)).all()
