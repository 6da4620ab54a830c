"""The demo's projects with the real model, in the hands of somebody who does what the demo's text says.

``X2SAM_GUIDE=1`` (``make guide``) keeps pictures of it for the annotator's guide.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import demo
import numpy as np
import pytest
from PIL import Image
from saved_masks import masks_of
from workplace import NANO, ROOT

GUIDE = ROOT / "label_config" / "guide"
SHADOW = (46.0, 76.0)  # percent: what lies under the bus in the picture of the first click
CHAIR = (17.0, 18.0)
WIDTH, QUALITY, LARGEST = 1100, 80, 150_000

pytestmark = pytest.mark.skipif(not NANO.is_file(), reason="x2sam/checkpoints/nano is not there")


@pytest.fixture(scope="module")
def made(label_studio, nano):
    """The demo's projects, attached to the real model, and what the demo says about them."""
    projects = demo.set_up(label_studio, nano.url)
    return projects, demo.instructions(label_studio, projects)


@pytest.fixture
def keep(editor):
    """Keeps what is on the screen for the guide, where that is asked for."""

    def keep(name: str) -> None:
        if os.environ.get("X2SAM_GUIDE") == "1":
            save_small(editor.page.screenshot(), GUIDE / f"{name}.jpg")

    return keep


def save_small(png: bytes, path: Path) -> None:
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=QUALITY, optimize=True)
    assert path.stat().st_size < LARGEST


def answered(exchange):
    """The masks of an answer."""
    return [mask for _, mask in masks_of(exchange.items)]


def at(mask, x, y):
    return bool(mask[int(y / 100 * mask.shape[0]), int(x / 100 * mask.shape[1])])


def test_clicks_and_a_box_as_the_demo_tells(editor, made, saved, keep):
    projects, told = made
    name, x, y = demo.FIRST_CLICK
    editor.open(projects.pictures, projects.tasks[name])
    keep("1-open")
    assert 'switch on "Auto-Annotation"' in told
    editor.switch_on()
    assert 'click on the label "Object" below "Click", press K, and click' in told
    editor.choose("1", "point: Object")
    editor.take_up("KeyPointTool")
    first = editor.click(x, y)
    (before,) = answered(first)
    assert at(before, x, y)
    assert 0.02 < before.mean() < 0.6
    keep("2-click")

    assert "press 1 and click once more" in told
    assert "Alt + click" in told
    editor.choose_by_key("1", "point: Object")
    wrong = SHADOW if at(before, *SHADOW) else farthest(before, x, y)
    second = editor.click(*wrong, negative=True)
    (after,) = answered(second)
    assert at(after, x, y)
    assert not at(after, *wrong)
    keep("3-not-this")

    assert "the tick" in told
    editor.accept()
    keep("4-accepted")

    assert "press R, then 3, and draw it" in told
    editor.take_up("RectangleTool")
    editor.choose_by_key("3", "box: Object")
    boxed = editor.drag(42, 58, 51, 78)
    keep("5-box")
    (wheel,) = answered(boxed)
    editor.accept()
    masks = [mask for _, mask in masks_of(saved(editor.submit()))]
    assert len(masks) == 2
    assert (masks[0] == after).all()
    assert (masks[1] == wheel).all()


def farthest(mask, x, y):
    """The place of a mask, in percent, that lies deep inside and far from a click."""
    from scipy.ndimage import distance_transform_edt

    rows, columns = np.indices(mask.shape)
    away = np.hypot(rows - y / 100 * mask.shape[0], columns - x / 100 * mask.shape[1])
    depth = distance_transform_edt(mask)
    row, column = np.unravel_index(np.argmax(np.where(depth >= min(6, depth.max()), away, 0)), mask.shape)
    return 100 * (column + 0.5) / mask.shape[1], 100 * (row + 0.5) / mask.shape[0]


def test_words_as_the_demo_tells(editor, made, saved, keep):
    projects, told = made
    assert "type what you look for" in told
    editor.open(projects.pictures, projects.tasks["airplane.jpg"])
    editor.switch_on()
    answer = editor.type("the airplane")
    assert editor.shown("reply") == answer.told()
    assert answer.told().startswith("Found")
    keep("6-words")
    found = answered(answer)
    assert editor.suggestions() == len(found)
    if found:
        editor.accept()
    stored = [mask for _, mask in masks_of(saved(editor.submit()))]
    assert len(stored) == len(found)
    assert all((one == other).all() for one, other in zip(stored, found, strict=True))


def test_a_page_of_the_clip(editor, made, label_studio, saved, keep):
    projects, _ = made
    (task,) = label_studio.api("GET", f"/api/tasks?project={projects.clip}&fields=all")["tasks"]
    editor.open(projects.clip, task["id"])
    editor.switch_on()
    editor.next_page()
    editor.choose("1", "point: Object 1")
    editor.take_up("KeyPointTool")
    answer = editor.click(*CHAIR)
    (mask,) = answered(answer)
    assert at(mask, *CHAIR)
    keep("7-pages")
    editor.accept()
    items = saved(editor.submit())
    assert [item["item_index"] for item in items if item["type"] == "bitmasklabels"] == [1]
    ((_, stored),) = masks_of(items)
    assert (stored == mask).all()
