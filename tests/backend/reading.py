"""Reads answers as another program would: regions, sentences, and the pixels of a mask."""

from __future__ import annotations

import base64
import io

import cv2
import numpy as np
from label_studio_sdk.converter import brush
from PIL import Image


def regions(entry):
    return [item for item in entry["result"] if item["type"] != "textarea"]


def sentences(entry):
    return [item["value"]["text"][0] for item in entry["result"] if item["type"] == "textarea"]


def pixels(item):
    """The mask of an item, bool (H, W)."""
    size, value = (item["original_height"], item["original_width"]), item["value"]
    if "rle" in value:
        return brush.decode_rle(value["rle"]).reshape(*size, 4)[..., 3] > 127
    if "points" in value:
        canvas = np.zeros(size, np.uint8)
        points = np.array(value["points"]) / 100 * size[::-1]
        cv2.fillPoly(canvas, [np.round((points - 0.5) * 16).astype(np.int32)], 1, shift=4)
        return canvas.astype(bool)
    data = base64.b64decode(value["imageDataURL"].split(",")[1])
    mask = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., 3] > 127
    assert mask.shape == size
    return mask


def center(mask):
    """``x, y`` of the middle of a mask."""
    rows, cols = np.nonzero(mask)
    return cols.mean(), rows.mean()
