"""The stand-in for Label Studio's files, with the pages of its API that tell what comes before a task of a video."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs, urlsplit

from clip_desk import CONFIG
from label_studio_sdk.label_interface import LabelInterface
from picture_server import PictureServer, picture_bytes
from prompting import draft

from backend.rle import encode_mask

SIZE = (48, 160)
PAGES = 6
VIDEO = "0123456789abcdef"


class ClipProject(PictureServer):
    """Project 3 with tasks of a video, ``PAGES`` pages each; annotations, drafts and predictions by task; the API pages
    that were ``asked`` for."""

    def __init__(self):
        super().__init__()
        self.files["small"] = picture_bytes(SIZE[1], SIZE[0])
        self.tasks: dict[int, dict] = {}
        self.results: dict[str, dict[int, list[dict]]] = {"annotations": {}, "drafts": {}, "predictions": {}}
        self.asked: list[str] = []
        self.down = False

    def add(self, task: int, start: int, pages: int = PAGES, video: str = VIDEO, rate: float = 5.0) -> dict:
        """A task as ``video import`` makes it."""
        frames = [f"/data/local-files/?d=small/{video}-{start + page}.png" for page in range(pages)]
        data = {"frames": frames, "video_id": video, "video_fps": rate, "start_frame": start}
        self.tasks[task] = {"id": task, "project": 3, "data": data}
        return self.tasks[task]

    def store(self, kind: str, task: int, result: list[dict], **fields) -> dict:
        """An annotation, draft or prediction."""
        stored = self.results[kind].setdefault(task, [])
        entry = {"id": 100 * task + len(stored), "updated_at": f"2026-01-01T00:00:{len(stored):02d}Z", "result": result}
        stored.append(entry | {"completed_by": 1, "user": "ann@example.com"} | fields)
        return stored[-1]

    def content(self, path: str) -> bytes | None:
        parts = urlsplit(path)
        if not parts.path.startswith("/api/"):
            return super().content(path)
        self.asked.append(parts.path)
        if self.down:
            return b"<html>Bad Gateway</html>"
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/api/tasks":
            return json.dumps(self._list(asked)).encode()
        if parts.path == "/api/predictions/":
            return json.dumps(self.results["predictions"].get(int(asked["task"]), [])).encode()
        named = re.fullmatch(r"/api/tasks/(\d+)/(annotations/|drafts)", parts.path)
        return json.dumps(self.results[named[2].strip("/")].get(int(named[1]), [])).encode()

    def _list(self, asked: dict[str, str]) -> dict:
        assert asked["review"] == "true", "a plain listing makes Label Studio ask for predictions"
        assert asked["project"] == "3"
        found = list(self.tasks.values())
        for item in json.loads(asked["query"])["filters"]["items"]:
            name, value = item["filter"].removeprefix("filter:tasks:data."), item["value"]
            found = [t for t in found if name in t["data"] and _HOLDS[item["operator"]](t["data"][name], value)]
        return {"tasks": found, "total": len(found)}


_HOLDS = {
    "equal": lambda one, other: one == other,
    "less": lambda one, other: one < other,
    "greater_or_equal": lambda one, other: one >= other,
}


def region(name, page, mask, label="Object 1"):
    """A mask as it stands in an annotation; a name that is none of ours gives a region that was drawn by hand."""
    height, width = mask.shape
    return {
        "id": f"{name}-{page:04d}" if name.startswith("obj") else name, "from_name": "mask", "to_name": "image",
        "type": "brushlabels", "item_index": page, "original_width": width, "original_height": height,
        "image_rotation": 0, "value": {"format": "rle", "rle": encode_mask(mask), "brushlabels": [label]},
    }  # fmt: skip


class Desk:
    """Opens tasks and asks about them."""

    def __init__(self, client, place):
        self.client, self.place = client, place

    def _post(self, tasks, context):
        body = {"tasks": tasks, "project": "3.1", "label_config": CONFIG, "params": {"context": context}}
        answer = self.client.post("/predict", json=body)
        assert answer.status_code == 200, answer.json
        for entry in answer.json["results"]:
            if "result" in entry:
                assert not LabelInterface(CONFIG).validate_prediction(entry, return_errors=True)
        return answer.json["results"]

    def open(self, *tasks):
        return self._post([self.place.tasks[task] for task in tasks], None)

    def ask(self, task, *prompts, on_screen=(), **fields):
        drafts = [draft(*on_screen)] if on_screen else []
        return self._post([{**self.place.tasks[task], "drafts": drafts, **fields}], {"result": list(prompts)})[0]
