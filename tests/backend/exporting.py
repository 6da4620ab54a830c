"""Tasks as Label Studio exports them, and exports of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from backend.cli import app
from backend.label_config import parse_label_config
from backend.results import Place, region_items
from backend.rle import encode_mask
from x2sam.structures import Mask

TIME = "2026-11-20T16:37:59.649359Z"
CONFIG = """<View>
  <Image name="image" value="$image"/>
  <KeyPointLabels name="point" toName="image" smart="true"><Label value="cat"/><Label value="dog"/></KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true"><Label value="cat"/><Label value="dog"/></RectangleLabels>
  <BrushLabels name="brush" toName="image"><Label value="cat"/><Label value="dog"/></BrushLabels>
  <BitmaskLabels name="bitmask" toName="image"><Label value="cat"/><Label value="dog"/></BitmaskLabels>
  <PolygonLabels name="polygon" toName="image" tolerance="0"><Label value="cat"/><Label value="dog"/></PolygonLabels>
  <RectangleLabels name="rectangle" toName="image"><Label value="cat"/><Label value="dog"/></RectangleLabels>
</View>"""
_TAGS = parse_label_config(CONFIG).controls


def items(mask: np.ndarray, control: str = "brush", name: str = "obj0123456789", label: str = "cat", page=None):
    """The result items that the backend answers with."""
    return region_items(_TAGS[control], Place(name, "image", label, mask.shape, page), Mask(mask, 0.75))


def drawn(mask: np.ndarray, name: str, label: str = "cat", page: int | None = None, **fields: Any) -> dict[str, Any]:
    """A brush mask that a person drew."""
    height, width = mask.shape
    item = {
        "id": name, "from_name": "brush", "to_name": "image", "type": "brushlabels", "origin": "manual",
        "original_width": width, "original_height": height, "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_mask(mask), "brushlabels": [label]},
    }  # fmt: skip
    return {**item, **({} if page is None else {"item_index": page}), **fields}


def annotation(result: list, number: int = 1, person: int = 1, updated: str = TIME, **fields: Any) -> dict[str, Any]:
    own = {"id": number, "completed_by": person, "result": result, "was_cancelled": False, "updated_at": updated}
    return {**own, **fields}


def task(number: int, *annotations: dict, **data: Any) -> dict[str, Any]:
    data = data or {"image": f"/data/upload/1/abcd1234-{number}.jpg"}
    return {"id": number, "annotations": list(annotations), "data": data, "project": 1}


def pages(number: int, *annotations: dict, count: int = 3, start: int | None = None, video: str = "v1", **data: Any):
    """A task with pages; of a video where ``start`` says at which frame it begins."""
    linked = {} if start is None else {"video_id": video, "start_frame": start}
    frames = [f"/data/local-files/?d=f/{number}-{page}.jpg" for page in range(count)]
    return task(number, *annotations, frames=frames, **linked, **data)


class Exporting:
    """Exports below a folder."""

    def __init__(self, folder: Path):
        self.folder, self.said = folder, ""

    def file(self, tasks: Any, name: str = "tasks.json") -> Path:
        path = self.folder / name
        path.write_text(tasks if isinstance(tasks, str) else json.dumps(tasks))
        return path

    def run(self, tasks: Any, kind: str, *words: object, code: int = 0, out: str = "out") -> Path:
        """The directory of an export of tasks."""
        line = ["export", "--from-json", self.file(tasks), "--format", kind, "--out", self.folder / out, *words]
        done = CliRunner().invoke(app, [str(word) for word in line])
        self.said = " ".join(done.output.split())
        assert done.exit_code == code, (done.output, done.exception)
        return self.folder / out

    def config(self, xml: str = CONFIG) -> list[object]:
        path = self.folder / "config.xml"
        path.write_text(xml)
        return ["--label-config", path]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def blob(size=(40, 60), centre=(30, 20), radius=12.0, hole=5.0) -> np.ndarray:
    """A ring with a line of one pixel to the border."""
    y, x = np.mgrid[: size[0], : size[1]]
    away = np.hypot(x - centre[0], y - centre[1])
    return ((away < radius) & (away >= hole)) | ((y == centre[1]) & (x > centre[0]))
