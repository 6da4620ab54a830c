"""A video in several tasks in a real Label Studio: each begins with the tracks of the one before it."""

from __future__ import annotations

import numpy as np
import pytest
from label_studio_sdk.converter import brush
from label_studio_sdk.label_interface import LabelInterface
from video_place import VideoPlace
from video_place import video_config as config

from backend.rle import encode_mask

SIZE, PAGES, STEP = (64, 160), 6, 2  # the stand-in engine moves things by so many pixels a page
NAME = "obj0123456789"


@pytest.fixture
def place(video_place) -> VideoPlace:
    return video_place


@pytest.fixture
def tasks(place):
    """The ids of the four tasks of a clip, in order, in a project that asks for predictions when a task is opened."""
    project = place.project("video_frames_brush", show_collab_predictions=True)
    backend = place.label_studio.attach_backend(project, place.url)
    place.run("import", place.clip, "--project", project, "--pages", PAGES)
    return [task["id"] for task in place.tasks(project)], backend


def mask(page):
    whole = np.zeros(SIZE, bool)
    whole[16:40, 20 + STEP * page : 44 + STEP * page] = True
    return whole


def region(page, name=NAME):
    value = {"format": "rle", "rle": encode_mask(mask(page)), "brushlabels": ["Object 2"]}
    return {
        "id": f"{name}-{page:04d}", "from_name": "mask", "to_name": "image", "type": "brushlabels", "value": value,
        "original_height": SIZE[0], "original_width": SIZE[1], "image_rotation": 0, "item_index": page,
    }  # fmt: skip


def typed(text):
    return {
        "id": "t-1", "from_name": "prompt", "to_name": "image", "type": "textarea", "origin": "manual",
        "value": {"text": [text]}, "item_index": 0,
    }  # fmt: skip


def masks(items):
    return {item["item_index"]: item for item in items if item["type"] == "brushlabels"}


def pixels(item):
    return brush.decode_rle(item["value"]["rle"]).reshape(*SIZE, 4)[..., 3] > 127


def opened(place, task):
    """The predictions that Label Studio has once somebody has opened a task."""
    place.label_studio.api("GET", f"/api/tasks/{task}/")
    return place.label_studio.api("GET", f"/api/predictions/?task={task}")


def check(items, start, pages):
    found = masks(items)
    assert sorted(found) == list(range(pages))
    for page, item in found.items():
        assert item["id"] == f"{NAME}-{page:04d}", "one track over all tasks"
        assert item["value"]["brushlabels"] == ["Object 2"]
        np.testing.assert_array_equal(pixels(item), mask(start + page))


def test_each_task_begins_with_the_tracks_of_the_one_before(place, tasks):
    (first, second, third, last), backend = tasks
    server = place.label_studio
    assert opened(place, first) == [] == opened(place, second), "nothing found leaves no empty prediction"

    result = [region(page) for page in range(PAGES)]
    server.api("POST", f"/api/tasks/{first}/annotations/", {"result": result, "lead_time": 1})
    (prediction,) = opened(place, second)
    check(prediction["result"], PAGES, PAGES)
    xml = config("video_frames_brush")
    assert not LabelInterface(xml).validate_prediction({"result": prediction["result"]}, return_errors=True)
    sentence = next(item["value"]["text"][0] for item in prediction["result"] if item["type"] == "textarea")
    assert "Object 2: tracked 6 pages." in sentence

    # the second one was not touched by anybody: the third goes on from its prediction, and typing does the same
    (prediction,) = opened(place, third)
    check(prediction["result"], 2 * PAGES, PAGES)
    check(server.ask(backend, last, typed("continue"))["result"], 3 * PAGES, 2)


def test_a_draft_counts_before_it_is_submitted(place, tasks):
    (first, second, *_), backend = tasks
    server = place.label_studio
    server.api("POST", f"/api/tasks/{first}/drafts", {"result": [region(page) for page in range(PAGES)]})
    check(server.ask(backend, second, typed("track"))["result"], PAGES, PAGES)
    answer = server.ask(backend, first, typed("continue"))["result"]
    assert not masks(answer) and "where the video begins" in answer[0]["value"]["text"][0]
