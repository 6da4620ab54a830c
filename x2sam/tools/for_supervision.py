"""Masks to and from Roboflow's ``supervision`` (extra ``supervision``): its annotators, zones, metrics, and datasets.

What was exported as COCO is read by ``supervision.DetectionDataset.from_coco`` itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from x2sam.errors import PromptError
from x2sam.structures import Mask
from x2sam.tools.names import name_of

if TYPE_CHECKING:
    import supervision


def masks_to_detections(masks: Sequence[Mask], names: Sequence[str] = ()) -> supervision.Detections:
    """All masks of one frame, each bool (H, W). Boxes are ``x0, y0, x1, y1`` in pixels; ``names`` are those that
    categories count through; what an object is called on all frames is in ``data["object_id"]``."""
    import supervision

    masks = [mask for mask in masks if mask.mask.any()]
    if not masks:
        return supervision.Detections.empty()
    corners = [(x, y, x + width, y + height) for x, y, width, height in (mask.bbox for mask in masks)]
    return supervision.Detections(
        xyxy=np.array(corners, np.float32),
        mask=np.stack([mask.mask for mask in masks]),
        confidence=np.array([mask.score for mask in masks], np.float32),
        class_id=np.array([mask.category for mask in masks], int),
        data={
            "class_name": np.array([name_of(mask, names) for mask in masks]),
            "object_id": np.array([mask.object_id for mask in masks]),
        },
    )


def detections_to_masks(detections: supervision.Detections) -> list[Mask]:
    """The masks of one frame, in their order; what has no confidence is certain.

    Raises PromptError for detections that are boxes only.
    """
    if not len(detections):
        return []
    if detections.mask is None:
        raise PromptError("these detections are boxes without masks; give them to a session as Prompt(boxes=...)")
    scores = np.ones(len(detections)) if detections.confidence is None else detections.confidence
    categories = np.zeros(len(detections), int) if detections.class_id is None else detections.class_id
    phrases = detections.data.get("class_name", [None] * len(detections))
    objects = detections.data.get("object_id", detections.tracker_id)
    objects = [""] * len(detections) if objects is None else objects
    return [
        Mask(np.asarray(mask, bool), float(score), str(known), None if phrase is None else str(phrase), int(category))
        for mask, score, known, phrase, category in zip(
            detections.mask, scores, objects, phrases, categories, strict=True
        )
    ]
