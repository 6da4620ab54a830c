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
from saved_masks import masks_of, on_pages
from workplace import NANO, ROOT

GUIDE = ROOT / "label_config" / "guide"
SHADOW = (46.0, 76.0)  # percent: what lies under the bus in the picture of the first click
CHAIR = demo.CHAIR
MENDED = 29  # the last page of the clip, counted from 0
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


@pytest.fixture
def clip(made, label_studio):
    """The project of the demo's clip, and a task with the same pages on which nobody has worked."""
    projects, _ = made
    first = label_studio.api("GET", f"/api/tasks?project={projects.clip}&fields=all")["tasks"][0]
    (task,) = label_studio.import_tasks(projects.clip, [{"frames": first["data"]["frames"]}])
    return projects.clip, task


def test_a_page_of_the_clip(editor, clip, saved, keep):
    editor.open(*clip)
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


def test_a_track_and_a_correction_as_the_demo_tells(editor, clip, made, saved, keep):
    _, told = made
    assert "press 7, click the pink button of the tools, and click on the chair" in told
    editor.open(*clip)
    editor.switch_on()
    editor.choose("7", "track_point: Object 1")
    assert editor.take_up_by_button("track_point") == 1, "one click on the pink button is enough"
    answer = editor.click(*CHAIR)
    first = on_pages(answer.items)
    assert len(first) == MENDED + 1
    assert at(first[0][1], *CHAIR)
    keep("8-tracked")
    editor.accept()
    editor.show_page(MENDED)
    keep("9-a-page")

    name, before = first[MENDED]
    assert editor.choose_kept(*deepest(before)) == name
    editor.erase(*left_edge(before))
    keep("10-mended")
    editor.let_go()
    after, mine = on_pages(editor.results())[MENDED]
    assert after == name
    assert 0 < mine.sum() < before.sum()
    editor.wait_saved()
    again = on_pages(editor.type("track").items)
    assert MENDED not in again
    keep("11-followed")
    editor.accept()
    stored = on_pages(saved(editor.submit()))
    assert {page: name for page, (name, _) in stored.items()} == {page: name for page, (name, _) in first.items()}
    assert (stored[MENDED][1] == mine).all()
    assert all((stored[page][1] == mask).all() for page, (_, mask) in again.items())


def deepest(mask):
    """The place of a mask, in percent, that is farthest from its rim."""
    from scipy.ndimage import distance_transform_edt

    row, column = np.unravel_index(np.argmax(distance_transform_edt(mask)), mask.shape)
    return 100 * (column + 0.5) / mask.shape[1], 100 * (row + 0.5) / mask.shape[0]


def left_edge(mask):
    """A stroke down along the left rim of a mask, places in percent."""
    column = np.flatnonzero(mask.any(0))[0] + 5
    rows = np.flatnonzero(mask[:, : column + 5].any(1))
    return [(100 * column / mask.shape[1], 100 * row / mask.shape[0]) for row in (rows[0] - 5, rows[-1] + 5)]
