"""Videos in a real Label Studio: each labeling configuration for them, tasks of imported pages, boxes over time."""

from __future__ import annotations

import json

import pytest
import requests
from label_studio_sdk.label_interface import LabelInterface
from label_studio_server import click
from video_clips import number_in
from video_place import VideoPlace
from video_place import video_config as config

from backend.label_config import parse_label_config
from backend.video_boxes import sequence_to_boxes, track_value

UNREACHABLE = "http://pages.invalid"
SIZE = (64, 160)
MASKS = {"video_frames": "bitmasklabels", "video_frames_brush": "brushlabels"}


@pytest.fixture
def place(video_place) -> VideoPlace:
    return video_place


@pytest.mark.parametrize("name", ["video_frames", "video_frames_brush", "video_words", "video_boxes"])
def test_label_studio_takes_the_configuration(place, name):
    server, project = place.label_studio, place.project(name)
    seen = server.api("GET", f"/api/projects/{project}/")["parsed_label_config"]
    ours = parse_label_config(config(name))
    assert set(seen) == set(ours.controls)
    for tag, parsed in seen.items():
        assert set(parsed["labels"]) == {label.value for label in ours.controls[tag].labels} or not parsed["labels"]
        assert tuple(parsed["to_name"]) == ours.controls[tag].to_names
    backend = server.attach_backend(project, place.url)
    assert server.api("GET", f"/api/ml/{backend}")["state"] == "CO"


@pytest.mark.parametrize("name", MASKS)
def test_pages_are_imported_and_clicked_on(place, name):
    server, project = place.label_studio, place.project(name)
    # Nobody can fetch these pages by HTTP, not even the backend: it does not need to.
    options = ("import", place.clip, "--project", project, "--pages", 8)
    assert "3 tasks made." in place.run(*options, BACKEND_PUBLIC_URL=UNREACHABLE)
    assert "0 tasks made, 3 were there." in place.run(*options)
    tasks = place.tasks(project)
    assert [task["data"]["start_frame"] for task in tasks] == [0, 8, 16]
    assert [len(task["data"]["frames"]) for task in tasks] == [8, 8, 4]
    backend = server.attach_backend(project, place.url)
    prompt = click(50, 50, SIZE, "a", "Object 1", item_index=5)
    answer = server.ask(backend, tasks[1]["id"], prompt)["result"]
    (item,) = [item for item in answer if item["type"] == MASKS[name]]
    assert (item["item_index"], item["original_height"], item["original_width"]) == (5, *SIZE)
    assert not LabelInterface(config(name)).validate_prediction({"result": [item]}, return_errors=True)

    server.api("POST", f"/api/tasks/{tasks[1]['id']}/annotations/", {"result": [item]})
    assert "3 tasks have new addresses." in place.run("renew")
    (annotation,) = server.api("GET", f"/api/tasks/{tasks[1]['id']}/annotations/")
    assert annotation["result"][0]["id"] == item["id"]
    for task in place.tasks(project):
        for page, address in enumerate(task["data"]["frames"]):
            picture = requests.get(address, headers={"Origin": server.url}, timeout=30)
            assert picture.headers["Access-Control-Allow-Origin"] == "*"
            assert number_in(picture.content) == task["data"]["start_frame"] + page


def test_a_replaced_key_ends_the_old_addresses(place):
    project = place.project("video_frames")
    place.run("import", place.clip, "--project", project, "--fps", 5)
    (task,) = place.tasks(project)
    before = task["data"]["frames"]
    assert [requests.get(address, timeout=30).status_code for address in before] == [200] * 10
    place.run("rotate-key")
    assert requests.get(before[3], timeout=30).status_code == 403
    (task,) = place.tasks(project)
    assert [number_in(requests.get(address, timeout=30).content) for address in task["data"]["frames"]] == [
        *range(0, 20, 2)
    ]


def test_pages_are_uploaded(place, tmp_path):
    server, project = place.label_studio, place.project("video_frames")
    options = ("import", place.clip, "--project", project, "--upload", "--range", "4:", "--json", tmp_path / "out.json")
    place.run(*options)
    place.run(*options)
    (entry,) = json.loads((tmp_path / "out.json").read_text())["videos"]
    (task,) = place.tasks(project)
    assert (entry["tasks"], entry["created"], entry["pages"]) == ([task["id"]], 0, 16)
    assert len(server.api("GET", f"/api/projects/{project}/file-uploads?all=true")) == 16
    headers = {"Authorization": f"Token {server.token}"}
    for page, address in enumerate(task["data"]["frames"]):
        assert number_in(requests.get(server.url + address, headers=headers, timeout=30).content) == 4 + page
    backend = server.attach_backend(project, place.url)
    answer = server.ask(backend, task["id"], click(50, 50, SIZE, "a", "Object 1", item_index=9))["result"]
    assert [item["item_index"] for item in answer if item["type"] == "bitmasklabels"] == [9]


def test_boxes_over_time_are_kept_as_they_are(place):
    server, project = place.label_studio, place.project("video_boxes")
    (task,) = server.import_tasks(project, [{"video": "http://videos.invalid/a.mp4", "video_fps": 10}])
    boxes = [(2.0 * i, 10.0, 2.0 * i + 40, 40.0) if not 8 <= i < 12 else None for i in range(20)]
    value = track_value(boxes, SIZE, 10, ["Object 1"])
    item = {"id": "obj1", "from_name": "box", "to_name": "video", "type": "videorectangle", "value": value}
    assert not LabelInterface(config("video_boxes")).validate_prediction({"result": [item]}, return_errors=True)
    server.api("POST", "/api/predictions/", {"task": task, "result": [item], "model_version": "v1"})
    (stored,) = server.api("GET", f"/api/predictions/?task={task}")
    read = sequence_to_boxes(stored["result"][0]["value"]["sequence"], SIZE, 20)
    assert [box is None for box in read] == [box is None for box in boxes]
    assert all(got == pytest.approx(true, abs=0.5) for got, true in zip(read, boxes, strict=True) if true)
