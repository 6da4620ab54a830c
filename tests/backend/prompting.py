"""Prompts, drafts and requests as the editor makes them, for the tests of what belongs together."""

from __future__ import annotations

import copy
import itertools

from label_studio_sdk.label_interface import LabelInterface
from reading import pixels, regions

from backend.rle import encode_mask

SIZE = (480, 640)
IDS = (f"prompt{number:04d}" for number in itertools.count())
STAMPS = (f"2026-01-01T00:00:{number:09.4f}Z" for number in itertools.count())


def region(kind, tag, value, label="Object", **fields):
    item = {
        "id": next(IDS),
        "from_name": tag,
        "to_name": "image",
        "type": f"{kind}labels",
        "origin": "manual",
        "original_width": SIZE[1],
        "original_height": SIZE[0],
        "image_rotation": 0,
        "value": {**value, f"{kind}labels": [label]},
    }
    return item | fields


def click(x, y, positive=True, **fields):
    return region("keypoint", "point", {"x": x, "y": y, "width": 0.23}, is_positive=positive, **fields)


def box(x, y, width, height, **fields):
    return region("rectangle", "box", {"x": x, "y": y, "width": width, "height": height, "rotation": 0}, **fields)


def typed(text, **fields):
    item = {"id": next(IDS), "from_name": "prompt", "to_name": "image", "type": "textarea", "value": {"text": [text]}}
    return item | fields


def draft(*items, user="ann@example.com", **fields):
    return {"id": 1, "user": user, "updated_at": next(STAMPS), "annotation": None, "result": list(items)} | fields


class Asker:
    """Sends prompts on a task with drafts, and returns the answer; ``like`` gives task and configuration."""

    def __init__(self, client, captured):
        self.client, self.captured = client, captured

    def __call__(
        self, *prompts, drafts=(), annotations=(), predictions=(), like="predict_interactive_text", change=None
    ):
        body = self.captured(like)
        if change is not None:
            body["label_config"] = change(body["label_config"])
        body["params"]["context"] = {"result": list(prompts)}
        before = {"drafts": list(drafts), "annotations": list(annotations), "predictions": list(predictions)}
        body["tasks"][0] |= before
        answer = self.client.post("/predict", json=copy.deepcopy(body))
        assert answer.status_code == 200, answer.json
        (entry,) = answer.json["results"]
        if entry.get("result"):
            assert not LabelInterface(body["label_config"]).validate_prediction(entry, return_errors=True)
        return entry


def only(entry):
    (item,) = regions(entry)
    return item


def object_of(item):
    return item["id"].rsplit("-", 1)[0]


def last(engine):
    return engine.asked[-1][2]


def edited(item, change):
    """The item after a person has worked on its mask with the brush."""
    mask = pixels(item).copy()
    change(mask)
    return item | {"value": {**item["value"], "rle": encode_mask(mask)}}
