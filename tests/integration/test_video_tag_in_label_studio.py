"""The Video tag in a real Label Studio: texts give rectangles over time, whose keyframes people set right."""

from __future__ import annotations

import pytest
from label_studio_sdk.label_interface import LabelInterface
from video_place import VideoPlace
from video_place import video_config as config

from backend.video_boxes import sequence_to_boxes

SIZE, FRAMES, RATE, STEP = (64, 160), 20, 10, 2


@pytest.fixture
def place(video_place) -> VideoPlace:
    return video_place


@pytest.fixture
def task(place):
    """A task whose video was uploaded to Label Studio, and the backend that answers."""
    server, project = place.label_studio, place.project("video_boxes")
    with place.clip.open("rb") as file:
        path = f"/api/projects/{project}/import?commit_to_project=false"
        stored = server.api("POST", path, files={"file": ("clip.mp4", file, "video/mp4")})["file_upload_ids"]
    (upload,) = server.api("GET", f"/api/projects/{project}/file-uploads?ids={stored}")
    address = f"/data/{upload['file']}"
    (task,) = server.import_tasks(project, [{"video": address, "video_fps": RATE}])
    return task, server.attach_backend(project, place.url)


def typed(text, name="t-1"):
    value = {"text": [text]}
    return {
        "id": name, "from_name": "prompt", "to_name": "video", "type": "textarea", "origin": "manual", "value": value
    }  # fmt: skip


def rectangles(items):
    return [item for item in items if item["type"] == "videorectangle"]


def boxes(item):
    return sequence_to_boxes(item["value"]["sequence"], SIZE, FRAMES)


def test_a_text_gives_a_sequence(place, task):
    number, backend = task
    answer = place.label_studio.ask(backend, number, typed("the square"))["result"]
    (item,) = rectangles(answer)
    assert not LabelInterface(config("video_boxes")).validate_prediction({"result": [item]}, return_errors=True)
    value = item["value"]
    assert (value["framesCount"], value["labels"]) == (FRAMES, ["Object 1"])
    assert [(key["frame"], key["time"]) for key in value["sequence"]] == [(1, 0.1), (20, 2.0)]
    for frame, box in enumerate(boxes(item)):
        assert box == pytest.approx((72 + STEP * frame, 24, 88 + STEP * frame, 40), abs=0.5)
    (reply,) = [item for item in answer if item["type"] == "textarea"]
    assert "Found 1 object" in reply["value"]["text"][0] and "tracked 20 frames." in reply["value"]["text"][0]


def test_a_keyframe_of_a_person_is_followed_and_kept(place, task):
    number, backend = task
    server = place.label_studio
    mine = {
        "frame": 8,
        "enabled": True,
        "rotation": 0,
        "x": 25.0,
        "y": 25.0,
        "width": 12.5,
        "height": 37.5,
        "time": 0.8,
    }
    value = {"framesCount": FRAMES, "duration": 2.0, "sequence": [mine], "labels": ["Object 2"]}
    drawn = {"id": "k3fJ2", "from_name": "box", "to_name": "video", "type": "videorectangle", "value": value}
    server.api("POST", f"/api/tasks/{number}/drafts", {"result": [drawn], "lead_time": 1})
    (item,) = rectangles(server.ask(backend, number, typed("track"))["result"])
    assert (item["id"], item["value"]["labels"]) == ("k3fJ2", ["Object 2"])
    assert mine in item["value"]["sequence"]
    for frame, box in enumerate(boxes(item), 1):
        assert box == pytest.approx((40 + STEP * (frame - 8), 16, 60 + STEP * (frame - 8), 40), abs=0.8)

    annotation = server.api("POST", f"/api/tasks/{number}/annotations/", {"result": [item], "lead_time": 1})
    (stored,) = server.api("GET", f"/api/annotations/{annotation['id']}/")["result"]
    assert stored["value"]["sequence"] == item["value"]["sequence"], "Label Studio keeps it to the last digit"
