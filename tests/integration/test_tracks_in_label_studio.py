"""Tracking over the pages of a task in a real Label Studio: answers, drafts, masks that a person changed."""

from __future__ import annotations

import base64
import copy
import io
import json
import time
from urllib.parse import quote

import numpy as np
import pytest
from label_studio_sdk.converter import brush
from label_studio_sdk.label_interface import LabelInterface
from label_studio_server import click
from PIL import Image
from workplace import ROOT

from backend.rle import encode_mask

SIZE = (240, 320)
DISC = (31.25, 50.0)  # percent: the middle of the disc on the first of three pages, it moves 40 pixels a page
KINDS = {"video_frames": "bitmasklabels", "video_frames_brush": "brushlabels"}


def pixels(item):
    if "rle" in item["value"]:
        return brush.decode_rle(item["value"]["rle"]).reshape(*SIZE, 4)[..., 3] > 127
    data = base64.b64decode(item["value"]["imageDataURL"].split(",")[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., 3] > 127


def typed(text, page, name):
    return {
        "id": name, "from_name": "prompt", "to_name": "image", "type": "textarea", "origin": "manual",
        "value": {"text": [text]}, "item_index": page,
    }  # fmt: skip


@pytest.fixture(params=KINDS)
def config(request):
    return request.param


@pytest.fixture
def task(workplace, config):
    return workplace.task(config, frames=[f"/data/local-files/?d=made/page{number}.jpg" for number in range(3)])


def masks(items):
    return {item["item_index"]: item for item in items if item["type"] != "textarea"}


def sentence(items):
    return " ".join(item["value"]["text"][0] for item in items if item["type"] == "textarea")


def noted(server, project, task):
    """What the backend notes about a task in its ``meta``, soon after a track has ended."""
    wanted = {"filter": "filter:tasks:id", "operator": "equal", "type": "Number", "value": task}
    query = json.dumps({"filters": {"conjunction": "and", "items": [wanted]}})
    end = time.monotonic() + 30
    while True:
        path = f"/api/tasks?project={project}&review=true&include=id,meta&query={quote(query)}"
        (found,) = server.api("GET", path)["tasks"]
        if "x2sam" in (found["meta"] or {}):
            return found["meta"]["x2sam"]
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_track_and_a_correction(workplace, config, task):
    server, (_, backend) = workplace.label_studio, workplace.project(config)
    prompt = click(*DISC, SIZE, "t-1", "Object 1", item_index=0, from_name="track_point")
    answer = server.ask(backend, task, prompt)["result"]
    xml = (ROOT / "label_config" / f"{config}.xml").read_text(encoding="utf-8")
    assert not LabelInterface(xml).validate_prediction({"result": answer}, return_errors=True)
    assert "Object 1: tracked 3 pages." in sentence(answer)
    items = masks(answer)
    assert set(items) == {0, 1, 2} and {item["type"] for item in answer} == {KINDS[config], "textarea"}
    assert [items[page]["id"].rsplit("-", 1)[1] for page in range(3)] == ["0000", "0001", "0002"]

    (entry,) = noted(server, workplace.project(config)[0], task)["look_at"]
    assert entry["page"] in (2, 3) and entry["label"] == "Object 1" and items[0]["id"].startswith(entry["object"])

    mine = pixels(items[2]).copy()
    mine[:120] = False
    assert mine.any() and (mine != pixels(items[2])).any()
    if config == "video_frames_brush":
        value = {"format": "rle", "rle": encode_mask(mine), "brushlabels": ["Object 1"]}
    else:
        layers = np.zeros((*SIZE, 4), np.uint8)
        layers[mine] = 255
        file = io.BytesIO()
        Image.fromarray(layers).save(file, "PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        value = {"imageDataURL": url, "bitmasklabels": ["Object 1"]}
    screen = [items[0], items[1], items[2] | {"value": value, "origin": "manual"}]
    server.api("POST", f"/api/tasks/{task}/drafts", {"result": screen, "lead_time": 1})
    again = server.ask(backend, task, typed("track", 0, "t-2"))["result"]
    assert set(masks(again)) == {1}, "the page of the click and the changed one stay as they are"
    assert masks(again)[1]["id"] == items[1]["id"]
    assert "tracked 3 pages." in sentence(again)

    server.api("POST", f"/api/tasks/{task}/annotations/", {"result": screen})
    (draft,) = server.api("GET", f"/api/tasks/{task}/drafts")
    server.api("DELETE", f"/api/drafts/{draft['id']}/", None)
    submitted = server.ask(backend, task, typed("track", 1, "t-3"))["result"]
    assert not masks(submitted) and "stay as they are" in sentence(submitted)


def test_a_locked_page_is_not_made_again(workplace, config, task):
    server, (_, backend) = workplace.label_studio, workplace.project(config)
    prompt = click(*DISC, SIZE, "l-1", "Object 1", item_index=0, from_name="track_point")
    items = masks(server.ask(backend, task, prompt)["result"])
    server.api("POST", f"/api/tasks/{task}/drafts", {"result": list(items.values()), "lead_time": 1})
    locked = server.ask(backend, task, typed("lock", 1, "l-2"))["result"]
    assert "Locked on page 2" in sentence(locked) and not masks(locked)
    again = masks(server.ask(backend, task, typed("track", 0, "l-3"))["result"])
    assert {page: item["id"] for page, item in again.items()} == {2: items[2]["id"]}
    every = server.ask(backend, task, typed("lock all", 2, "l-4"))["result"]
    assert "Locked on page 3" in sentence(every)
    assert "stay as they are" in sentence(server.ask(backend, task, typed("track", 1, "l-5"))["result"])


def test_tracks_of_two_people_never_meet(workplace, config, task, second_login):
    ann, (_, backend) = workplace.label_studio, workplace.project(config)
    ben = copy.copy(ann)
    ben.token = second_login.token
    found = {}
    for person, name, place in ((ann, "a", DISC), (ben, "b", (75.0, 30.0))):
        prompt = click(*place, SIZE, f"{name}-1", "Object 1", item_index=0, from_name="track_point")
        found[name] = masks(person.ask(backend, task, prompt)["result"])
        body = {"result": list(found[name].values()), "lead_time": 1}
        person.api("POST", f"/api/tasks/{task}/drafts", body)
    ids = {name: {item["id"] for item in items.values()} for name, items in found.items()}
    assert len(ids["a"]) == len(ids["b"]) == 3 and not ids["a"] & ids["b"]
    for person, name in ((ann, "a"), (ben, "b")):
        again = masks(person.ask(backend, task, typed("track", 1, f"{name}-2"))["result"])
        assert set(again) == {1, 2} and {item["id"] for item in again.values()} < ids[name]
        plain = click(50, 90, SIZE, f"{name}-3", "Object 2", item_index=2)
        assert not masks(person.ask(backend, task, plain)["result"]).keys() - {2}
        assert "nothing to stop" in sentence(person.ask(backend, task, typed("stop", 2, f"{name}-4"))["result"])


def test_the_disc_is_followed(workplace, config, task):
    if workplace.engine != "nano":
        pytest.skip("the stand-in follows nothing")
    server, (_, backend) = workplace.label_studio, workplace.project(config)
    prompt = click(*DISC, SIZE, "t-1", "Object 1", item_index=0, from_name="track_point")
    items = masks(server.ask(backend, task, prompt)["result"])
    rows, cols = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    for page in range(3):
        disc = (rows - 120) ** 2 + (cols - 100 - 40 * page) ** 2 < 60**2
        mask = pixels(items[page])
        assert (mask & disc).sum() / (mask | disc).sum() > 0.8
