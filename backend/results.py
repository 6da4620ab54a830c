"""Masks and sentences -> result items of Label Studio: one small encoder per control tag, chosen by a table.

Region ids are ``<object>-<frame>``: an answer with the id of an existing region replaces it, and the part before the
last dash says which object it is on every page.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from backend.geometry import (
    Size,
    box_to_percent,
    mask_to_box,
    mask_to_polygons,
    points_to_percent,
    resize_mask,
)
from backend.label_config import ControlTag
from backend.rle import encode_mask
from x2sam.structures import Mask

Item = dict[str, Any]
DOUBTFUL = 0.5
"""How probable it is that a tracked mask is wrong, from which on its region says so."""


@dataclass(frozen=True)
class Place:
    """Where an answer goes. ``size`` is the picture's ``(H, W)`` in the browser; ``page`` None on a single picture."""

    object_id: str
    to_name: str
    label: str
    size: Size
    page: int | None = None


def region_items(control: ControlTag, place: Place, mask: Mask, tolerance: float = 0.5) -> list[Item]:
    """The result items of one mask; none for an empty mask, several where a polygon needs several outlines.

    ``tolerance`` is by how many pixels an outline may leave the mask, unless the tag's own ``tolerance`` says it. A
    plain tag's item is followed by one of its ``Labels`` tag, with the same id.
    """
    if not mask.mask.any():
        return []
    values = _ENCODERS[control.shape](resize_mask(mask.mask, place.size), control.pixels("tolerance", tolerance))
    height, width = place.size
    items = []
    for part, value in enumerate(values):
        object_id = place.object_id if part == 0 else f"{place.object_id}.{part + 1}"
        item = {
            "id": f"{object_id}-{place.page or 0:04d}",
            "to_name": place.to_name,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
        }
        item = _with_doubt(_with_page(_with_score(item, mask.score), place.page), mask.doubt)
        for tag, kind, labelled in _results_of(control):
            label = {kind: [place.label]} if labelled else {}
            items.append({**item, "from_name": tag, "type": kind, "value": {**value, **label}})
    return items


def _results_of(control: ControlTag) -> list[tuple[str, str, bool]]:
    """The tag, type and whether it has the label of each result of a region."""
    plain = control.kind == control.shape
    return [(control.name, control.kind, not plain)] + ([(control.labels_name, "labels", True)] if plain else [])


def text_item(control: ControlTag, to_name: str, sentence: str, page: int | None = None) -> Item:
    """A sentence in a TextArea; it is shown at once. ``page`` counts only where the tag has ``perItem="true"``."""
    page = page if control.flag("perItem", default=False) else None
    item = {
        "id": f"{control.name}-{page or 0:04d}",
        "from_name": control.name,
        "to_name": to_name,
        "type": "textarea",
        "value": {"text": [sentence]},
    }
    return _with_page(item, page)


def task_score(masks: Iterable[Mask]) -> float | None:
    """The number by which tasks are sorted for review: a task is as sure as its least sure object."""
    scores = [score for mask in masks if (score := _finite(mask.score)) is not None]
    return min(scores, default=None)


def _with_page(item: Item, page: int | None) -> Item:
    return item if page is None else {**item, "item_index": page}


def _with_score(item: Item, score: float) -> Item:
    score = _finite(score)
    return item if score is None else {**item, "score": score}


def _with_doubt(item: Item, doubt: float | None) -> Item:
    """A tracked mask that is probably wrong says so in the region's panel, where it stays when it is accepted."""
    doubt = None if doubt is None else _finite(doubt)
    if doubt is None or doubt < DOUBTFUL:
        return item
    return {**item, "meta": {"text": [f"Look at this one: {100 * doubt:.0f} % likely to be wrong"]}}


def _finite(score: float) -> float | None:
    return round(min(max(float(score), 0.0), 1.0), 4) if math.isfinite(score) else None


def _brush(mask: np.ndarray, _tolerance: float) -> list[Item]:
    return [{"format": "rle", "rle": encode_mask(mask)}]


def _bitmask(mask: np.ndarray, _tolerance: float) -> list[Item]:
    return [{"imageDataURL": bitmask_url(mask)}]


def bitmask_url(mask: np.ndarray) -> str:
    """A mask, bool (H, W), as a PNG in an address: one bit per pixel, black and either clear or opaque. Alpha is the
    mask, and the browser recolours it."""
    picture = Image.fromarray(mask.astype(np.uint8), "P")
    picture.putpalette(bytes(6))
    file = io.BytesIO()
    picture.save(file, "PNG", bits=1, transparency=bytes((0, 255)), compress_level=6)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _polygon(mask: np.ndarray, tolerance: float) -> list[Item]:
    outlines = mask_to_polygons(mask, tolerance)
    return [{"points": points_to_percent(points, mask.shape), "closed": True} for points in outlines]


def _rectangle(mask: np.ndarray, _tolerance: float) -> list[Item]:
    box = mask_to_box(mask)
    return [] if box is None else [{**box_to_percent(box, mask.shape), "rotation": 0}]


_ENCODERS: dict[str, Callable[[np.ndarray, float], list[Item]]] = {
    "brush": _brush,
    "bitmask": _bitmask,
    "polygon": _polygon,
    "rectangle": _rectangle,
}
