"""The masks of a saved annotation, as pixels."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from backend.rle import decode_mask


def masks_of(items: Iterable[dict[str, Any]]) -> list[tuple[str, np.ndarray]]:
    """Label and mask, bool (H, W), of every brush and bitmask of an annotation, in its order.

    An answer's text that arrives while a kept mask is chosen is stored once more by Label Studio under the mask's
    control, with a label and no pixels: such items are no masks.
    """
    kinds = {"brushlabels": ("rle", _brush), "bitmasklabels": ("imageDataURL", _bitmask)}
    masks = []
    for item in items:
        key, read = kinds.get(item["type"], ("", None))
        if key in item["value"]:
            masks.append((item["value"][item["type"]][0], read(item)))
    return masks


def on_pages(items: Iterable[dict[str, Any]]) -> dict[int, tuple[str, np.ndarray]]:
    """Id and mask, bool (H, W), by page, counted from 0, where there is one mask on a page at most."""
    found: dict[int, tuple[str, np.ndarray]] = {}
    for item in items:
        for _, mask in masks_of([item]):
            assert item["item_index"] not in found
            found[item["item_index"]] = item["id"], mask
    return found


def _brush(item: dict[str, Any]) -> np.ndarray:
    return decode_mask(item["value"]["rle"], item["original_height"], item["original_width"])


def _bitmask(item: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(item["value"]["imageDataURL"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., 3] > 127
