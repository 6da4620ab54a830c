from __future__ import annotations

from dataclasses import replace

import pytest

from backend import prompts
from backend.protocol import DrawnRegion, Task, parse_context
from x2sam.errors import PromptError
from x2sam.structures import Point

SIZE = (480, 640)
TASK = Task("7", {}, frozenset())


def size_of(frame):
    return SIZE


def click(name, x=50.0, y=50.0, positive=True, page=None, label="Object"):
    return DrawnRegion(name, "kp", "image", label, page, SIZE, 0.0, x, y, positive=positive)


def box(name, x=10.0, y=10.0, width=20.0, height=20.0, rotation=0.0, page=None, label="Object"):
    return DrawnRegion(name, "rect", "image", label, page, SIZE, 0.0, x, y, width, height, rotation, box=True)


def context_of(captured, name):
    return parse_context(captured(name)["params"]["context"])


def test_accumulated_clicks_are_one_prompt_in_order(captured):
    context = context_of(captured, "predict_interactive_keypoint_accumulated_negative")
    (ask,) = prompts.region_asks(TASK, context.regions, size_of)
    assert [point.positive for point in ask.prompt.points] == [True, True, False]
    assert [(round(p.x), round(p.y)) for p in ask.prompt.points] == [(192, 192), (224, 192), (384, 288)]
    assert ask.prompt.object_id == ask.object_id
    assert (ask.page, ask.frame, ask.label, ask.shown) == (None, 0, "Object", SIZE)


def test_three_pages_are_three_prompts_for_one_object(captured):
    context = context_of(captured, "predict_interactive_keypoint_three_pages")
    asks = prompts.region_asks(TASK, context.regions, lambda frame: (720, 1280))
    assert [ask.page for ask in asks] == [0, 3, 6]
    assert len({ask.object_id for ask in asks}) == 1
    assert [len(ask.prompt.points) for ask in asks] == [1, 1, 1]


def test_the_object_keeps_its_name_while_clicks_are_added():
    first = prompts.region_asks(TASK, [click("a")], size_of)[0].object_id
    assert prompts.region_asks(TASK, [click("a"), click("b", 60)], size_of)[0].object_id == first
    assert prompts.region_asks(TASK, [click("b", 60)], size_of)[0].object_id != first
    assert prompts.region_asks(replace(TASK, id="8"), [click("a")], size_of)[0].object_id != first


def test_a_moved_click_keeps_the_name():
    assert (
        prompts.region_asks(TASK, [click("a", 10)], size_of)[0].object_id
        == prompts.region_asks(TASK, [click("a", 80)], size_of)[0].object_id
    )


def test_two_labels_are_two_objects():
    asks = prompts.region_asks(TASK, [click("a"), click("b", label="Other"), click("c", 70)], size_of)
    assert [(ask.label, len(ask.prompt.points)) for ask in asks] == [("Object", 2), ("Other", 1)]


def test_boxes_on_one_page_are_objects_and_nth_boxes_of_pages_the_same():
    regions = [box("a", page=0), box("b", 50, page=0), box("c", page=4), box("d", 60, page=4)]
    asks = prompts.region_asks(TASK, regions, size_of)
    assert [(ask.page, round(ask.prompt.boxes[0][0])) for ask in asks] == [(0, 64), (4, 64), (0, 320), (4, 384)]
    assert asks[0].object_id == asks[1].object_id != asks[2].object_id == asks[3].object_id


def test_a_box_in_pixels(captured):
    context = context_of(captured, "predict_interactive_rectangle")
    (ask,) = prompts.region_asks(TASK, context.regions, size_of)
    assert ask.prompt.boxes == (pytest.approx((191.7, 143.7, 384.3, 336.3), abs=0.1),)
    assert ask.prompt.points == ()


def test_a_turned_box_is_a_mask():
    (ask,) = prompts.region_asks(TASK, [box("a", 50, 30, 20, 20, 45)], size_of)
    assert ask.prompt.boxes == ()
    assert ask.prompt.masks[0].sum() == pytest.approx(128 * 96, rel=0.02)


def test_a_click_on_the_edge_stays_inside():
    (ask,) = prompts.region_asks(TASK, [click("a", 100, 100.2)], size_of)
    assert ask.prompt.points == (Point(639.75, 479.75),)


@pytest.mark.parametrize(
    ("regions", "text"),
    [
        ([click("a", positive=False)], "without Alt"),
        ([replace(click("a"), image_rotation=90.0)], "upright"),
        ([box("a", 99.95, 10, 5, 5)], "no area"),
        ([box("a", 10, 10, 0, 5)], "no area"),
    ],
)
def test_prompts_that_cannot_be_answered(regions, text):
    with pytest.raises(PromptError, match=text):
        prompts.region_asks(TASK, regions, size_of)


def test_a_page_with_negative_clicks_only_is_left_out():
    asks = prompts.region_asks(TASK, [click("a", page=0), click("b", page=1, positive=False)], size_of)
    assert [ask.page for ask in asks] == [0]


def test_names_are_made_of_harmless_letters():
    assert prompts.object_name("7", "../../\ud800", None).isalnum()
    assert prompts.object_name("ab", "c") != prompts.object_name("a", "bc")
