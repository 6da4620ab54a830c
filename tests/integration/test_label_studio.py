"""The way of a click: a real Label Studio calls our server, and what comes back is looked at as its editor would."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import demo
import numpy as np
import pytest
import requests
from label_studio_sdk.converter import brush
from label_studio_sdk.label_interface import LabelInterface
from label_studio_server import click
from PIL import Image

from backend.errors import MediaError
from backend.file_cache import FileCache
from backend.media import MediaFetcher
from backend.settings import Settings

CONFIGS = Path(__file__).resolve().parents[2] / "label_config"
SIZE = (240, 320)
DISC = (31.25, 50.0)  # percent: the middle of the disc in the generated picture


def local(name):
    return f"/data/local-files/?d={name}"


def box(x, y, width, height, size=SIZE, name="box-1", **fields):
    region = click(x, y, size, name)
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": ["Object"]}
    del region["is_positive"]
    return region | {"from_name": "box", "type": "rectanglelabels", "value": value} | fields


def typed(text, **fields):
    item = {"id": "text-1", "from_name": "prompt", "to_name": "image", "type": "textarea", "origin": "manual"}
    return item | {"value": {"text": [text]}} | fields


def pixels(item):
    size = item["original_height"], item["original_width"]
    if "rle" in item["value"]:
        return brush.decode_rle(item["value"]["rle"]).reshape(*size, 4)[..., 3] > 127
    data = base64.b64decode(item["value"]["imageDataURL"].split(",")[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., 3] > 127


def at(mask, x, y):
    """The mask at a point in percent."""
    return bool(mask[int(y / 100 * mask.shape[0]), int(x / 100 * mask.shape[1])])


def only(items, kind):
    (item,) = (item for item in items if item["type"] == kind)
    return item


@pytest.mark.parametrize("config", sorted(path.stem for path in CONFIGS.glob("*.xml")))
def test_label_studio_takes_every_configuration(workplace, config):
    project, backend = workplace.project(config)
    described = workplace.label_studio.api("GET", f"/api/ml/{backend}")
    assert described["state"] == "CO"
    assert described["is_interactive"]
    assert described["model_version"].startswith(workplace.engine)
    assert workplace.label_studio.api("GET", f"/api/projects/{project}/")["parsed_label_config"]


def test_a_click_gives_a_mask_around_it(workplace):
    task = workplace.task("image_clicks", image=local("made/upright.png"))
    item = only(workplace.ask("image_clicks", task, click(*DISC, SIZE, "a")), "brushlabels")
    mask = pixels(item)
    assert mask.shape == SIZE
    assert at(mask, *DISC)
    assert 0.01 < mask.mean() < 0.5
    assert item["value"]["brushlabels"] == ["Object"]
    assert 0 <= item["score"] <= 1
    xml = (CONFIGS / "image_clicks.xml").read_text(encoding="utf-8")
    assert not LabelInterface(xml).validate_prediction({"result": [item]}, return_errors=True)


def test_a_click_on_an_uploaded_picture(workplace, files):
    project, _ = workplace.project("image_clicks")
    content = (files / "made" / "upright.png").read_bytes()
    upload = {"file": ("мое фото #1.png", content, "image/png")}
    report = workplace.label_studio.api("POST", f"/api/projects/{project}/import?return_task_ids=1", files=upload)
    item = only(workplace.ask("image_clicks", report["task_ids"][0], click(*DISC, SIZE, "a")), "brushlabels")
    assert at(pixels(item), *DISC)


def test_a_negative_click_takes_its_place_out(workplace):
    task = workplace.task("image_clicks", image=local("made/upright.png"))
    first = click(*DISC, SIZE, "a")
    before = pixels(only(workplace.ask("image_clicks", task, first), "brushlabels"))
    rows, cols = np.nonzero(before)
    edge = 100 * (cols[np.argmax(cols)] - 2.5) / SIZE[1], 100 * (rows[np.argmax(cols)] + 0.5) / SIZE[0]
    assert at(before, *edge)
    second = click(*edge, SIZE, "b", is_positive=False)
    item = only(workplace.ask("image_clicks", task, first, second), "brushlabels")
    assert at(pixels(item), *DISC)
    assert not at(pixels(item), *edge)


def test_a_second_click_replaces_the_answer_to_the_first(workplace):
    task = workplace.task("image_clicks", image=local("made/upright.png"))
    first, second = click(*DISC, SIZE, "a"), click(35, 55, SIZE, "b")
    once = only(workplace.ask("image_clicks", task, first), "brushlabels")
    twice = only(workplace.ask("image_clicks", task, first, second), "brushlabels")
    assert once["id"] == twice["id"]
    assert at(pixels(twice), *DISC)
    assert at(pixels(twice), 35, 55)


def test_a_box(workplace):
    task = workplace.task("image_clicks", image=local("made/upright.png"))
    mask = pixels(only(workplace.ask("image_clicks", task, box(12.5, 25, 37.5, 50)), "brushlabels"))
    assert at(mask, *DISC)
    assert not at(mask, 90, 90)
    assert 0.01 < mask.mean() < 0.5


def test_a_photograph_that_is_stored_on_its_side(workplace):
    task = workplace.task("image_clicks", image=local("made/rotated.jpg"))
    item = only(workplace.ask("image_clicks", task, click(*DISC, SIZE, "a")), "brushlabels")
    assert (item["original_height"], item["original_width"]) == SIZE
    assert at(pixels(item), *DISC)
    assert not at(pixels(item), 90, 90)


def test_clicks_on_two_pages(workplace):
    task = workplace.task("video_frames", frames=[local(f"made/page{number}.jpg") for number in range(3)])
    prompts = [click(*DISC, SIZE, "a", "Object 1", item_index=0), click(56, 50, SIZE, "b", "Object 1", item_index=2)]
    items = workplace.ask("video_frames", task, *prompts)
    masks = [item for item in items if item["type"] == "bitmasklabels"]
    assert [item["item_index"] for item in masks] == [0, 2]
    assert [item["id"][-5:] for item in masks] == ["-0000", "-0002"]
    assert at(pixels(masks[0]), *DISC)
    assert at(pixels(masks[1]), 56, 50)
    assert [item["item_index"] for item in items if item["type"] == "textarea"] == [0, 2]


def test_a_text_is_answered_with_masks_and_a_sentence(workplace):
    task = workplace.task("image_text", image=local("made/upright.png"))
    items = workplace.ask("image_text", task, typed("the red disc"))
    sentence = only(items, "textarea")["value"]["text"][0]
    count = sum(item["type"] == "brushlabels" for item in items)
    assert re.match(rf"Found {count} objects? for “the red disc”: .*\d+ % sure" if count else "Found nothing", sentence)
    if workplace.engine == "fake":
        assert count == 1


def test_a_problem_is_told_in_the_reply_field(workplace):
    task = workplace.task("image_text", image=local("made/missing.png"))
    items = workplace.ask("image_text", task, click(*DISC, SIZE, "a"))
    assert "no such picture" in only(items, "textarea")["value"]["text"][0]


def test_retrieving_predictions_stores_what_was_found(workplace):
    if workplace.engine != "fake":
        pytest.skip("what nano finds under the names of these labels is its own business")
    xml = (CONFIGS / "image_clicks.xml").read_text(encoding="utf-8").replace('"Background"', '"unseen"')
    server = workplace.label_studio
    project = server.create_project("retrieve", xml)
    server.serve_folder(project, server.files_root / "made")
    found = server.import_tasks(project, [{"image": local("made/upright.png")}, {"image": local("made/missing.png")}])
    server.attach_backend(project, workplace.url)
    selection = {"selectedItems": {"all": True, "excluded": []}}
    server.api("POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}", selection)
    stored = server.api("GET", f"/api/predictions/?project={project}")
    assert [prediction["task"] for prediction in stored] == found[:1]
    assert stored[0]["model_version"] == "fake-0001"
    assert [item["type"] for item in stored[0]["result"]] == ["brushlabels"]


def test_events_arrive(workplace):
    task = workplace.task("image_clicks", image=local("made/upright.png"))
    items = workplace.ask("image_clicks", task, click(*DISC, SIZE, "a"))
    before = events(workplace)
    workplace.label_studio.api("POST", f"/api/tasks/{task}/annotations/", {"result": items})
    assert events(workplace) == before + 1


def events(workplace):
    text = requests.get(f"{workplace.url}/metrics", timeout=5).text
    found = re.search(r'x2sam_webhook_events_total\{action="ANNOTATION_CREATED"\} (\d+)', text)
    return int(found[1]) if found else 0


def test_a_personal_access_token_fetches_pictures(label_studio, personal_token, files, tmp_path):
    # A picture is served only to members of a project whose storage covers it.
    project = label_studio.create_project("token", (CONFIGS / "image_clicks.xml").read_text(encoding="utf-8"))
    label_studio.serve_folder(project, files / "made")
    settings = Settings(label_studio_url=label_studio.url, label_studio_api_key=personal_token)
    fetcher = MediaFetcher(settings, FileCache(tmp_path / "cache", 10**8, 3600))
    assert fetcher.read(local("made/upright.png")) == (files / "made" / "upright.png").read_bytes()
    nobody = MediaFetcher(replace(settings, label_studio_api_key=""), FileCache(tmp_path / "other", 10**8, 3600))
    with pytest.raises(MediaError, match="LABEL_STUDIO_API_KEY"):
        nobody.read(local("made/upright.png"))


def test_the_demo(workplace):
    server = workplace.label_studio
    made = demo.set_up(server, workplace.url)
    assert sorted(made.tasks) == sorted(path.name for path in demo.SAMPLES.glob("*.jpg"))
    assert "was answered in" in demo.try_click(server, made)
    assert "over 30 of 30 pages" in demo.try_track(server, made)
    again = demo.set_up(server, workplace.url)
    assert (again.pictures, again.clip, again.tasks) == (made.pictures, made.clip, made.tasks)
    assert server.url in demo.instructions(server, again)
    clips = server.api("GET", f"/api/tasks?project={made.clip}&fields=all")["tasks"]  # other tests add some
    (clip,) = [task for task in clips if task["id"] == made.clip_task]
    assert len(clip["data"]["frames"]) == 30
