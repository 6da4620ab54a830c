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
    """Label and mask, bool (H, W), of every brush and bitmask of an annotation, in its order."""
    kinds = {"brushlabels": _brush, "bitmasklabels": _bitmask}
    return [(item["value"][item["type"]][0], kinds[item["type"]](item)) for item in items if item["type"] in kinds]


def _brush(item: dict[str, Any]) -> np.ndarray:
    return decode_mask(item["value"]["rle"], item["original_height"], item["original_width"])


def _bitmask(item: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(item["value"]["imageDataURL"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., 3] > 127
