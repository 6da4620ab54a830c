from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend import protocol
from backend.errors import BadRequestError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)
KEYS = ("tasks", "project", "label_config", "params", "action", "schema", "result", "value", "type", "id", "x", "y")
OBJECTS = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6)


def point(**changes):
    item = {
        "original_width": 640,
        "original_height": 480,
        "image_rotation": 0,
        "value": {"x": 10, "y": 20.5, "width": 0.2, "keypointlabels": ["Object"]},
        "is_positive": True,
        "id": "abc",
        "from_name": "kp",
        "to_name": "image",
        "type": "keypointlabels",
    }
    return {**item, **changes}


def parse(*items):
    return protocol.parse_context({"result": list(items)})


def test_a_point(captured):
    context = parse(point(item_index=3, is_positive=False))
    (region,) = context.regions
    assert (region.x, region.y, region.page, region.positive, region.size) == (10, 20.5, 3, False, (480, 640))
    assert (region.label, region.from_name, region.to_name, region.box) == ("Object", "kp", "image", False)


def test_a_box(captured):
    request = protocol.parse_predict(captured("predict_interactive_rectangle"))
    (box,) = protocol.parse_context(request.context).regions
    assert box.box
    assert (box.width, box.height) == pytest.approx((30.0878, 40.1171), abs=1e-3)
    assert box.label == "Object"


def test_project_number_is_before_the_dot(captured):
    assert protocol.parse_predict(captured("predict_bulk")).project_id == "6"
    assert protocol.parse_webhook(captured("webhook_tasks_created")).project_id == "6"
    assert protocol.parse_setup(captured("setup")).project_id == "1"


def test_texts_come_with_their_pages(captured):
    request = protocol.parse_predict(captured("predict_interactive_text_per_item"))
    texts = protocol.parse_context(request.context).texts
    assert [(text.from_name, text.page, text.text) for text in texts] == [
        ("prompt", 3, "the cup"),
        ("reply", 3, "hello page 4"),
        ("prompt", 1, "second page text"),
    ]


def test_the_copied_mask_of_an_accepted_suggestion_is_no_prompt():
    copy = point(value={"format": "rle", "rle": [0, 1, 2], "keypointlabels": ["Object"]})
    bitmask = point(type="rectanglelabels", value={"imageDataURL": "data:image/png;base64,"})
    assert parse(copy, point(), bitmask).regions == parse(point()).regions


@pytest.mark.parametrize(
    "context", [{}, {"event": "capabilities"}, {"result": None}, {"result": {}}, [], "track", 7, True, {"result": []}]
)
def test_unknown_shapes_are_an_empty_context(context):
    assert protocol.parse_context(context) == protocol.Context()


def test_a_click_with_labels_of_two_tags_is_one_of_the_tag_whose_tool_was_in_hand():
    value = {"x": 10, "y": 20.5, "width": 0.2, "keypointlabels": ["Other"]}
    unnamed = [point(id=None, from_name=name) for name in ("a", "b")]
    regions = parse(point(), point(from_name="second", value=value), *unnamed).regions
    assert [(r.id, r.from_name, r.label) for r in regions] == [
        ("abc", "kp", "Object"), ("", "a", "Object"), ("", "b", "Object")
    ]  # fmt: skip


def test_no_context_is_something_else():
    assert protocol.parse_context(None) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"value": {"x": "1", "y": 2}},
        {"value": {"x": 1}},
        {"value": {"x": True, "y": 1}},
        {"value": {"x": float("nan"), "y": 1}},
        {"value": {"x": 1, "y": float("inf")}},
        {"value": {"x": 10**400, "y": 1}},
        {"value": [1, 2]},
        {"item_index": -1},
        {"item_index": "1"},
        {"item_index": 1.5},
        {"is_positive": "yes"},
        {"original_width": 0},
        {"original_height": None},
        {"original_width": 1 << 40},
        {"image_rotation": "left"},
    ],
)
def test_malformed_points_say_what_is_wrong(changes):
    with pytest.raises(BadRequestError):
        parse(point(**changes))


@pytest.mark.parametrize("text", [None, 5, [1], [["a"]], {"a": 1}])
def test_malformed_texts(text):
    with pytest.raises(BadRequestError, match="TextArea"):
        parse({"type": "textarea", "value": {"text": text}})


def test_blank_texts_are_none_and_the_last_entry_counts():
    blank = {"type": "textarea", "id": "a", "from_name": "prompt", "to_name": "image", "value": {"text": ["", "  "]}}
    assert parse(blank).texts == ()
    two = {**blank, "value": {"text": ["old", " new "]}}
    assert parse(two).texts[0].text == "new"


def test_half_a_surrogate_does_not_travel_on():
    text = {"type": "textarea", "value": {"text": [json.loads('"a\\ud800b"')]}}
    parse(text).texts[0].text.encode()


@pytest.mark.parametrize("body", [None, [], "x", {}, {"tasks": []}, {"tasks": [1]}, {"tasks": {}}])
def test_a_predict_body_needs_tasks(body):
    with pytest.raises(BadRequestError):
        protocol.parse_predict(body)


def test_region_ids_of_drafts_and_annotations():
    task = protocol.parse_task(
        {
            "id": 3,
            "data": {},
            "drafts": [{"result": [{"id": "a"}, {"id": 5}, {}]}],
            "annotations": [{"result": [{"id": "b"}]}, None, {"result": None}],
            "predictions": [{"result": [{"id": "c"}]}],
        }
    )
    assert task.region_ids >= {"a", "b", "5"}
    assert "c" not in task.region_ids


@given(OBJECTS | JSON)
def test_whatever_comes_it_parses_or_says_why_not(body):
    for parse_body in (
        protocol.parse_predict,
        protocol.parse_setup,
        protocol.parse_webhook,
        protocol.parse_task,
        protocol.parse_context,
    ):
        try:
            parse_body(body)
        except BadRequestError as error:
            assert str(error)


@given(st.lists(OBJECTS | JSON, max_size=3), st.sampled_from(["keypointlabels", "rectanglelabels", "textarea"]))
def test_whatever_stands_in_a_context(items, kind):
    for item in items:
        if isinstance(item, dict):
            item["type"] = kind
    try:
        protocol.parse_context({"result": items})
    except BadRequestError as error:
        assert str(error)
