from __future__ import annotations

import base64
import io
import json

import cv2
import numpy as np
import pytest
from label_studio_sdk.converter import brush
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image

from backend.label_config import parse_label_config
from backend.results import Place, region_items, task_score, text_item
from x2sam.structures import Mask

XML = """<View>
  <Image name="image" valueList="$frames"/>
  <BrushLabels name="brush" toName="image"><Label value="A"/><Label value="B"/></BrushLabels>
  <BitmaskLabels name="bits" toName="image"><Label value="A"/><Label value="B"/></BitmaskLabels>
  <PolygonLabels name="poly" toName="image"><Label value="A"/><Label value="B"/></PolygonLabels>
  <RectangleLabels name="rect" toName="image"><Label value="A"/><Label value="B"/></RectangleLabels>
  <TextArea name="reply" toName="image" smart="false"/>
  <TextArea name="each" toName="image" smart="false" perItem="true"/>
</View>"""
CONFIG = parse_label_config(XML)
SIZE = (120, 160)


def blob():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return ((x - 60) ** 2 + (y - 50) ** 2 < 900) | ((x - 130) ** 2 + (y - 90) ** 2 < 200)


def items(control, mask=None, score=0.876543, page=4, size=SIZE):
    mask = blob() if mask is None else mask
    return region_items(CONFIG.controls[control], Place("obj1", "image", "B", size, page), Mask(mask, score))


def brush_mask(item):
    rle = item["value"]["rle"]
    return brush.decode_rle(rle).reshape(item["original_height"], item["original_width"], 4)[..., 3] == 255


def bitmask(item):
    kind, data = item["value"]["imageDataURL"].split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))[..., 3] == 255


def polygons(result):
    drawn = np.zeros(SIZE, np.uint8)
    for item in result:
        points = np.array(item["value"]["points"]) / 100 * (SIZE[1], SIZE[0])
        cv2.fillPoly(drawn, [np.round((points - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return drawn.astype(bool)


@pytest.mark.parametrize("control", ["brush", "bits", "poly", "rect"])
def test_every_kind_is_what_label_studio_takes(control):
    result = items(control)
    errors = LabelInterface(XML).validate_prediction({"result": result, "score": 0.5}, return_errors=True)
    assert not errors
    assert result[0]["id"] == "obj1-0004"
    assert len({item["id"] for item in result}) == len(result)
    for item in result:
        assert (item["original_height"], item["original_width"], item["image_rotation"]) == (*SIZE, 0)
        assert (item["item_index"], item["score"], item["to_name"]) == (4, 0.8765, "image")
        assert item["value"][item["type"]] == ["B"]
    json.dumps(result, allow_nan=False)


def test_masks_survive():
    assert (brush_mask(items("brush")[0]) == blob()).all()
    assert (bitmask(items("bits")[0]) == blob()).all()


def test_outlines_cover_the_mask():
    result = items("poly")
    assert [item["id"] for item in result] == ["obj1-0004", "obj1.2-0004"]
    drawn = polygons(result)
    assert (drawn & blob()).sum() / (drawn | blob()).sum() > 0.95


def test_the_box():
    mask = np.zeros(SIZE, bool)
    mask[30:60, 40:120] = True
    value = items("rect", mask)[0]["value"]
    assert value == {"x": 25, "y": 25, "width": 50, "height": 25, "rotation": 0, "rectanglelabels": ["B"]}


def test_masks_take_the_size_that_the_browser_shows():
    item = items("brush", size=(240, 320))[0]
    assert (brush_mask(item) == np.kron(blob(), np.ones((2, 2), bool))).all()


def test_a_single_picture_has_no_page():
    (item,) = items("brush", page=None)
    assert "item_index" not in item
    assert item["id"] == "obj1-0000"


@pytest.mark.parametrize("control", ["brush", "bits", "poly", "rect"])
def test_nothing_is_nothing(control):
    assert items(control, np.zeros(SIZE, bool)) == []


@pytest.mark.parametrize(("score", "written"), [(1.3, 1.0), (-0.1, 0.0), (float("nan"), None), (np.float32(0.5), 0.5)])
def test_scores_are_numbers_from_0_to_1(score, written):
    assert items("brush", score=score)[0].get("score") == written


def test_a_task_is_as_sure_as_its_least_sure_object():
    masks = [Mask(blob(), score) for score in (0.9, 0.4, float("nan"))]
    assert task_score(masks) == 0.4
    assert task_score([]) is None


def test_sentences():
    single, each = CONFIG.controls["reply"], CONFIG.controls["each"]
    item = text_item(single, "image", "Found it.", page=3)
    assert item == {
        "id": "reply-0000",
        "from_name": "reply",
        "to_name": "image",
        "type": "textarea",
        "value": {"text": ["Found it."]},
    }
    assert text_item(each, "image", "Found it.", page=3)["item_index"] == 3
    result = [item, text_item(each, "image", "x", 3)]
    assert not LabelInterface(XML).validate_prediction({"result": result}, return_errors=True)


@pytest.mark.parametrize(("doubt", "told"), [(None, None), (0.2, None), (0.634, "63 %"), (float("nan"), None)])
def test_a_tracked_mask_that_is_probably_wrong_says_so(doubt, told):
    (item,) = region_items(
        CONFIG.controls["bits"], Place("obj1", "image", "B", SIZE, 4), Mask(blob(), 0.9, doubt=doubt)
    )
    assert ("meta" in item) == (told is not None)
    if told is not None:
        assert told in item["meta"]["text"][0]
