"""Requests about the pages of a task, as the editor makes them, for tests of tracks."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from fake_engine import STEP
from label_studio_sdk.label_interface import LabelInterface
from prompting import IDS, draft, object_of
from reading import regions

from backend.rle import encode_mask

CONFIGS = Path(__file__).parents[2] / "label_config"
CONFIG = (CONFIGS / "video_frames_brush.xml").read_text(encoding="utf-8")
HEIGHT, WIDTH, PAGES = 48, 160, 10


def point(x, y, page, label="Object 1", tag="track_point", **fields):
    value = {"x": x, "y": y, "width": 0.2, "keypointlabels": [label]}
    return clip_item("keypointlabels", tag, value, page, is_positive=True, **fields)


def drawn(mask, page, label="Object 1"):
    value = {"format": "rle", "rle": encode_mask(mask), "brushlabels": [label]}
    return clip_item("brushlabels", "mask", value, page)


def typed(text, page=0):
    return {
        "id": next(IDS), "from_name": "prompt", "to_name": "image", "type": "textarea", "item_index": page,
        "value": {"text": [text]},
    }  # fmt: skip


def clip_item(kind, tag, value, page, **fields):
    return {
        "id": next(IDS), "from_name": tag, "to_name": "image", "type": kind, "origin": "manual", "item_index": page,
        "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "value": value, **fields,
    }  # fmt: skip


class Desk:
    """Asks about a task of ``pages`` that one ``user`` has before them."""

    def __init__(self, client, xml=CONFIG, user="ann@example.com", addresses=None):
        self.client, self.xml, self.user, self.addresses = client, xml, user, addresses

    def __call__(self, *prompts, on_screen=(), annotations=(), pages=PAGES, drafts=None):
        own = [draft(*on_screen, user=self.user)] if on_screen else []
        before = {"drafts": own if drafts is None else drafts, "annotations": list(annotations)}
        entry = self._ask({**self._task(pages), **before}, {"result": list(prompts)})
        assert not LabelInterface(self.xml).validate_prediction(entry, return_errors=True)
        return entry

    def open(self, pages=PAGES):
        """What is predicted when somebody opens the task."""
        entry = self._ask(self._task(pages), None)
        if "result" in entry:
            assert not LabelInterface(self.xml).validate_prediction(entry, return_errors=True)
        return entry

    def _task(self, pages):
        addresses = self.addresses or [f"/data/local-files/?d=small/{page}.png" for page in range(pages)]
        return {"id": 5, "data": {"frames": addresses}}

    def _ask(self, task, context):
        body = {"tasks": [task], "project": "1.1", "label_config": self.xml, "params": {"context": context}}
        answer = self.client.post("/predict", json=body)
        assert answer.status_code == 200, answer.json
        (entry,) = answer.json["results"]
        return entry


def by_page(entry, name=None):
    return {item["item_index"]: item for item in regions(entry) if name is None or object_of(item) == name}


def moved(mask, pages):
    """A mask as the stand-in engine carries it over so many pages."""
    return np.roll(mask, STEP * pages, axis=1)


def wait_for(happened, seconds=10):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)
