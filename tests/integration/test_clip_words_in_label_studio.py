"""Words over whole clips in a real Label Studio: a text without a page, drafts, a clip that is filled when opened."""

from __future__ import annotations

import numpy as np
import pytest
from label_studio_sdk.label_interface import LabelInterface
from label_studio_server import click
from reading import pixels
from workplace import ROOT

CONFIG = "video_words"
PAGES = 3
SIZE = (240, 320)
NAMES = {"Person", "Car"}


@pytest.fixture(scope="module")
def xml():
    return (ROOT / "label_config" / f"{CONFIG}.xml").read_text(encoding="utf-8")


def clip(workplace):
    return workplace.task(CONFIG, frames=[f"/data/local-files/?d=made/page{number}.jpg" for number in range(PAGES)])


def typed(text, name):
    return {
        "id": name, "from_name": "prompt", "to_name": "image", "type": "textarea", "origin": "manual",
        "value": {"text": [text]},
    }  # fmt: skip


def masks(items):
    return [item for item in items if item["type"] == "bitmasklabels"]


def by_object(items):
    found: dict[str, dict[int, dict]] = {}
    for item in masks(items):
        name, page = item["id"].rsplit("-", 1)
        assert int(page) == item["item_index"]
        found.setdefault(name, {})[item["item_index"]] = item
    return found


def sentence(items):
    (text,) = [item for item in items if item["type"] == "textarea"]
    assert "item_index" not in text, "it is about the clip"
    return text["value"]["text"][0]


def test_a_text_without_a_page_means_the_clip(workplace, xml):
    server, (_, backend), task = workplace.label_studio, workplace.project(CONFIG), clip(workplace)
    text = typed("Object: the red disc", "w-1")
    answer = server.ask(backend, task, text)["result"]
    assert not LabelInterface(xml).validate_prediction({"result": answer}, return_errors=True)
    ((name, pages),) = by_object(answer).items()
    assert set(pages) == set(range(PAGES)) and all(pixels(item).shape == SIZE for item in pages.values())
    assert {item["value"]["bitmasklabels"][0] for item in pages.values()} == {"Object"}
    assert sentence(answer).startswith("Found 1 object for “the red disc”") and "tracked 3 pages" in sentence(answer)

    # accepted and saved, then corrected by a click on another page, then the rest is made to follow it
    server.api("POST", f"/api/tasks/{task}/drafts", {"result": [text, *pages.values()], "lead_time": 1})
    rows, cols = np.nonzero(pixels(pages[2]))
    x, y = 100 * (cols.mean() + 0.5) / SIZE[1], 100 * (rows.mean() + 0.5) / SIZE[0]
    corrected = masks(server.ask(backend, task, click(x, y, SIZE, "w-2", "Object", item_index=2))["result"])
    assert [item["id"] for item in corrected if item["item_index"] == 2] == [pages[2]["id"]], f"not {name} again"
    again = by_object(server.ask(backend, task, text, typed("track", "w-3"))["result"])
    assert set(again) <= {name}


def test_a_question_gets_an_answer(workplace):
    server, (_, backend), task = workplace.label_studio, workplace.project(CONFIG), clip(workplace)
    answer = server.ask(backend, task, typed("How many discs are there?", "w-4"))["result"]
    assert not masks(answer) and sentence(answer)


def test_opening_a_clip_fills_it(workplace):
    """Once: reopened, it shows what is stored."""
    server, task = workplace.label_studio, clip(workplace)
    opened = server.api("GET", f"/api/tasks/{task}/")
    if workplace.engine != "fake" and not opened["predictions"]:
        pytest.skip("what the embedded model finds by names depends on its weights; nothing found stores nothing")
    (prediction,) = opened["predictions"]
    objects = by_object(prediction["result"])
    assert objects and all(set(pages) <= set(range(PAGES)) for pages in objects.values())
    labels = {item["value"]["bitmasklabels"][0] for item in masks(prediction["result"])}
    assert labels <= NAMES, "a tag that is off is not filled"
    if workplace.engine == "fake":
        assert labels == NAMES and all(set(pages) == set(range(PAGES)) for pages in objects.values())
    (again,) = server.api("GET", f"/api/tasks/{task}/")["predictions"]
    assert again["id"] == prediction["id"]


def test_retrieving_predictions_fills_many_clips(workplace):
    server, (project, _) = workplace.label_studio, workplace.project(CONFIG)
    if workplace.engine != "fake":
        pytest.skip("what the embedded model finds by names depends on its weights")
    tasks = [clip(workplace) for _ in range(3)]
    action = f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}"
    server.api("POST", action, {"selectedItems": {"all": False, "included": tasks}})
    names = set()
    for task in tasks:
        (prediction,) = server.api("GET", f"/api/predictions/?task={task}")
        names |= set(by_object(prediction["result"]))
    assert len(names) == 2 * len(tasks), "objects of different tasks have different names"
