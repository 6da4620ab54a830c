"""What a mouse in Label Studio leads to: every test reads the saved annotation back and looks at its pixels."""

from __future__ import annotations

import numpy as np
import pytest
from saved_masks import masks_of

SIZE = (240, 320)
PICTURE = {"image": "/data/local-files/?d=made/upright.png"}
PAGES = {"frames": [f"/data/local-files/?d=made/page{number}.jpg" for number in range(3)]}
DISC, BESIDE = (31.25, 50.0), (75.0, 30.0)  # percent: the middle of the disc in the picture, and a place off it


def drawn(context, size=SIZE):
    """The mask, bool (H, W), that the stand-in engine draws for the prompts that the editor sent: discs and boxes."""
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    mask = np.zeros(size, bool)
    for region in context:
        value = region["value"]
        left, top = value["x"] / 100 * width, value["y"] / 100 * height
        if region["type"] == "rectanglelabels":
            right, bottom = left + value["width"] / 100 * width, top + value["height"] / 100 * height
            mask |= (x > left) & (x < right) & (y > top) & (y < bottom)
            continue
        reach = max(size) / 16 if region["is_positive"] else max(size) / 32
        disc = (x - left) ** 2 + (y - top) ** 2 < reach**2
        mask = mask | disc if region["is_positive"] else mask & ~disc
    return mask


def at(mask, x, y):
    """The mask at a place in percent."""
    return bool(mask[int(y / 100 * mask.shape[0]), int(x / 100 * mask.shape[1])])


@pytest.fixture
def opened(editor, fake):
    """An editor with a new task of a project open, the smart click in hand, and nobody else at it."""

    def opened(config="image_text", **data):
        data = data or PICTURE
        task = fake.task(config, **data)
        project, _ = fake.project(config)
        editor.open(project, task)
        editor.switch_on()
        return editor

    return opened


def test_click_negative_click_accept_submit_reopen(opened, saved):
    editor = opened()
    editor.choose("1", "point: Object")
    editor.take_up("KeyPointTool")
    first = editor.click(*DISC)
    assert editor.suggestions() == 1
    assert "97 % sure" in editor.shown("reply")
    editor.choose_by_key("1", "point: Object")
    second = editor.click(DISC[0] + 4, DISC[1], negative=True)
    assert [region["is_positive"] for region in second.context] == [True, False]
    aimed = [region["value"]["x"] for region in second.context]
    assert aimed == pytest.approx([DISC[0], DISC[0] + 4], abs=0.5)
    editor.accept()
    items = saved(editor.submit())
    ((label, mask),) = masks_of(items)
    assert label == "Object"
    assert (mask == drawn(second.context)).all()
    assert (mask != drawn(first.context)).any()
    assert at(mask, *DISC)
    assert not at(mask, DISC[0] + 4, DISC[1])

    editor.reopen()
    ((_, again),) = masks_of(editor.results())
    assert (again == mask).all()


def test_a_box(opened, saved):
    editor = opened()
    editor.choose("3", "box: Object")
    editor.take_up("RectangleTool")
    asked = editor.drag(12.5, 25, 50, 75)
    editor.accept()
    ((label, mask),) = masks_of(saved(editor.submit()))
    assert label == "Object"
    assert (mask == drawn(asked.context)).all()
    rows, columns = np.nonzero(mask)
    assert [columns.min(), columns.max() + 1, rows.min(), rows.max() + 1] == pytest.approx([40, 160, 60, 180], abs=2)


def test_a_text(opened, saved):
    editor = opened()
    answer = editor.type("the red disc")
    assert editor.shown("reply") == answer.told()
    assert "Found 1 object for “the red disc”" in editor.shown("reply")
    editor.accept()
    ((_, mask),) = masks_of(saved(editor.submit()))
    y, x = np.mgrid[:240, :320] + 0.5
    assert (mask == (abs(x - 160) < 30) & (abs(y - 120) < 30)).all()


def test_two_objects_with_two_labels(opened, saved):
    editor = opened()
    editor.choose("1", "point: Object")
    editor.take_up("KeyPointTool")
    one = editor.click(*DISC)
    editor.accept()
    editor.choose_by_key("2", "point: Background")
    two = editor.click(*BESIDE)
    assert [region["value"]["keypointlabels"] for region in two.context] == [["Background"]]
    editor.accept()
    masks = dict(masks_of(saved(editor.submit())))
    assert sorted(masks) == ["Background", "Object"]
    assert (masks["Object"] == drawn(one.context)).all()
    assert (masks["Background"] == drawn(two.context)).all()


def test_a_click_taken_back(opened, saved):
    editor = opened()
    editor.choose("1", "point: Object")
    editor.take_up("KeyPointTool")
    editor.click(*DISC)
    editor.choose_by_key("1", "point: Object")
    editor.click(*BESIDE)
    editor.press("Control+z")
    editor.choose_by_key("1", "point: Object")
    asked = editor.click(DISC[0] - 4, DISC[1])
    assert [region["value"]["x"] for region in asked.context] == pytest.approx([DISC[0], DISC[0] - 4], abs=0.5)
    editor.accept()
    ((_, mask),) = masks_of(saved(editor.submit()))
    assert (mask == drawn(asked.context)).all()
    assert not at(mask, *BESIDE)


@pytest.mark.parametrize(
    "config, data, label, others",
    [
        ("image_find_all", PICTURE, "Object", {"point_all": ("7", 1), "box_all": ("9", 2)}),
        ("image_outlines", PICTURE, "Object", {"point_boxed": ("7", 1)}),
        ("video_frames", PAGES, "Object 1", {"track_point": ("7", 1), "track_box": ("9", 2)}),
    ],
)
def test_keys_take_up_the_plain_tools_and_the_pink_button_the_others(opened, config, data, label, others):
    editor = opened(config, **data)
    plain = {"1": ("KeyPointTool", "point"), "3": ("RectangleTool", "box")}
    for key, (tool, control) in plain.items():
        if config == "image_outlines" and control == "box":
            continue
        editor.choose(key, f"{control}: {label}")
        editor.take_up(tool)
        assert editor.smart_control() == control
    for control, (key, clicks) in others.items():
        editor.choose_by_key(key, f"{control}: {'Boxed' if control == 'point_boxed' else label}")
        assert editor.take_up_by_button(control) == clicks


def test_with_labels_of_two_tags_the_tool_in_hand_decides(opened, saved):
    """Label Studio lets both be chosen, and sends a click with either of them under one id."""
    editor = opened("image_find_all")
    editor.choose("1", "point: Object")
    editor.choose_by_key("7", "point_all: Object")
    editor.take_up_by_button("point_all")
    both = editor.click(*BESIDE)
    assert [region["from_name"] for region in both.context] == ["point_all", "point"]
    assert editor.suggestions() == 2
    editor.accept()
    editor.choose("7", "point_all: Object")
    editor.choose_by_key("1", "point: Object")
    editor.take_up("KeyPointTool")
    one = editor.click(DISC[0], 75)
    assert [region["from_name"] for region in one.context] == ["point", "point_all"]
    assert editor.suggestions() == 1
    editor.accept()
    masks = [mask for _, mask in masks_of(saved(editor.submit()))]
    assert len(masks) == 3
    assert (masks[2] == drawn(one.context[:1])).all()


def test_all_like_what_is_clicked(opened, saved):
    editor = opened("image_find_all")
    editor.choose("7", "point_all: Object")
    editor.take_up_by_button("point_all")
    asked = editor.click(*BESIDE)
    assert "found 2 objects of that kind" in editor.shown("reply")
    assert editor.suggestions() == 2
    editor.accept()
    masks = [mask for _, mask in masks_of(saved(editor.submit()))]
    mirrored = drawn(asked.context)[:, ::-1]
    assert (masks[0] == drawn(asked.context)).all()
    assert (masks[1] == mirrored).all()


def test_page_three_of_a_clip(opened, saved):
    editor = opened("video_frames", **PAGES)
    editor.next_page()
    editor.next_page()
    assert editor.page_number() == 2
    editor.choose("2", "point: Object 2")
    editor.take_up("KeyPointTool")
    asked = editor.click(56, 50)
    assert [region["item_index"] for region in asked.context] == [2]
    assert "97 % sure" in editor.shown("reply")
    editor.accept()
    items = saved(editor.submit())
    ((label, mask),) = masks_of(items)
    assert label == "Object 2"
    assert [item["item_index"] for item in items if item["type"] == "bitmasklabels"] == [2]
    assert (mask == drawn(asked.context)).all()
    assert at(mask, 56, 50)


def test_opening_a_task_fills_it(editor, workplaces, saved):
    """What the labels name is there before anybody has done anything: things one by one, stuff as one."""
    place = workplaces("fake")
    task = place.task("image_panoptic", **PICTURE)
    editor.open(place.project("image_panoptic")[0], task)
    shown = masks_of(editor.results())
    assert [label for label, _ in shown] == ["Person", "Car", "Car", "Car", "Sky", "Road"]
    assert sum(mask.astype(int) for _, mask in shown).max() == 1, "a pixel belongs to one thing"
    submitted = masks_of(saved(editor.submit()))
    assert [label for label, _ in submitted] == [label for label, _ in shown]
    names = ("Person", "car", "van", "truck", "Sky", "Road")
    for number, (_, mask) in enumerate(submitted):
        columns = np.flatnonzero(mask.any(0))
        width = SIZE[1] / len(names)
        assert [columns.min(), columns.max() + 1] == pytest.approx([number * width, (number + 1) * width], abs=1)
        assert mask[:, columns].all()


def test_a_problem_is_shown_in_the_reply_field(opened, saved, foreign_picture):
    editor = opened(image=foreign_picture)
    editor.choose("1", "point: Object")
    editor.take_up("KeyPointTool")
    editor.click(*DISC)
    assert "X2SAM_MEDIA_HOSTS" in editor.shown("reply")
    assert editor.suggestions() == 0
    assert not masks_of(saved(editor.submit()))
