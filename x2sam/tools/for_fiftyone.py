"""Masks to and from FiftyOne (extra ``fiftyone``): its samples hold them as detections, each a part of the frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from x2sam.errors import PromptError
from x2sam.structures import Mask
from x2sam.tools.names import name_of

if TYPE_CHECKING:
    import fiftyone


def masks_to_labels(masks: Sequence[Mask], names: Sequence[str] = ()) -> fiftyone.Detections:
    """All masks of one picture, each bool (H, W). ``names`` are those that categories count through; ``object_id`` of a
    detection says what the object is called on all frames."""
    import fiftyone

    made = []
    for mask in masks:
        x, y, width, height = mask.bbox
        if width:
            rows, cols = mask.mask.shape
            made.append(
                fiftyone.Detection(
                    label=name_of(mask, names),
                    bounding_box=[x / cols, y / rows, width / cols, height / rows],
                    mask=mask.mask[y : y + height, x : x + width],
                    confidence=float(mask.score),
                    object_id=mask.object_id,
                )
            )
    return fiftyone.Detections(detections=made)


def labels_to_masks(labels: fiftyone.Detections, size: tuple[int, int], names: Sequence[str] = ()) -> list[Mask]:
    """Masks bool (H, W) of a picture of ``size`` (H, W), in their order. A label that is not in ``names`` gets the next
    category behind them.

    Raises PromptError for detections that are boxes only.
    """
    known = {name: number for number, name in enumerate(names)}
    found = []
    for one in labels.detections:
        if one.mask is None:
            raise PromptError(f"the detection {one.label!r} is a box without a mask; give it to a session as a prompt")
        score = 1.0 if one.confidence is None else float(one.confidence)
        category = known.setdefault(one.label, len(known))
        object_id = getattr(one, "object_id", None) or ""
        found.append(Mask(_whole(one.mask, one.bounding_box, size), score, object_id, one.label, category))
    return found


def _whole(part: np.ndarray, box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """The part of a mask in its place. Boxes of other programs need not end between pixels: then it is stretched."""
    height, width = size
    left, top = round(box[0] * width), round(box[1] * height)
    right, bottom = max(round((box[0] + box[2]) * width), left + 1), max(round((box[1] + box[3]) * height), top + 1)
    part = np.asarray(part, np.uint8)
    if part.shape != (bottom - top, right - left):
        part = cv2.resize(part, (right - left, bottom - top), interpolation=cv2.INTER_NEAREST)
    whole = np.zeros(size, bool)
    x, y = slice(max(left, 0), min(right, width)), slice(max(top, 0), min(bottom, height))
    whole[y, x] = part[y.start - top : y.stop - top, x.start - left : x.stop - left] > 0
    return whole
