"""A small data set in the layout of the evaluation data, and engines that answer by simple rules."""

from __future__ import annotations

import json

import av
import cv2
import numpy as np
import pytest

from x2sam.structures import FrameMasks, Mask

HEIGHT, WIDTH, FRAMES = 64, 96, 10


class FakeSession:
    """Answers with a disc of 12 pixels at each positive click, without those at negative ones; tracks by copying."""

    def __init__(self, frames, log):
        self.frames = frames
        self.size = frames.shape[:2] if isinstance(frames, np.ndarray) else frames.size
        self.log = log
        self.masks: dict[str, np.ndarray] = {}

    def segment(self, prompt, frame=0):
        self.log.append(("segment", prompt, frame))
        mask = np.zeros(self.size, np.uint8)
        for m in prompt.masks:
            mask |= m.astype(np.uint8)
        for x0, y0, x1, y1 in prompt.boxes:
            mask[int(y0) : int(y1), int(x0) : int(x1)] = 1
        for stroke in prompt.strokes:
            cv2.polylines(mask, [np.round(stroke).astype(np.int32)], False, 1, 9)
        if prompt.text is not None:
            mask[:, : self.size[1] // 2] = 1
        for p in prompt.points:
            cv2.circle(mask, (int(p.x), int(p.y)), 12, int(p.positive), -1)
        name = prompt.object_id or "made up"
        self.masks[name] = mask > 0
        return [Mask(mask > 0, 0.5, name), Mask(np.zeros(self.size, bool), 0.9, "somebody else")]

    def correct(self, frame, object_id, mask):
        self.log.append(("correct", object_id, frame))
        self.masks[object_id] = mask

    def track(self, object_ids, start, stop, direction, memory=None):
        self.log.append(("track", tuple(object_ids), start, stop, direction))
        for k in range(start, stop):
            yield FrameMasks(k, [Mask(self.masks[i], 1.0, i, doubt=0.25) for i in object_ids])

    def close(self):
        self.log.append(("close",))


class FakeEngine:
    """Hands out sessions and keeps a log of everything that is asked of them."""

    version = "fake-1"

    def __init__(self):
        self.log = []
        self.session_type = FakeSession

    def open(self, frames, key=None):
        self.log.append(("open", key))
        return self.session_type(frames, self.log)

    def close(self):
        self.log.append(("engine closed",))


@pytest.fixture
def engine():
    return FakeEngine()


def write_video(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))


def moving_square(frame):
    """Object 1, 20 x 20, two pixels to the right with each frame; object 2, still, appears in frame 3."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[10:30, 10 + 2 * frame : 30 + 2 * frame] = 1
    if frame >= 3:
        labels[40:60, 60:80] = 2
    return labels


@pytest.fixture
def data(tmp_path):
    (tmp_path / "images" / "made").mkdir(parents=True)
    (tmp_path / "masks" / "made").mkdir(parents=True)
    grey = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    images = []
    for name, things in (("a", (True, False)), ("b", (True, True))):
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[10:30, 10:30], labels[36:60, 40:90], labels[0:5, 80:96] = 1, 2, 3
        labels[:, 94:] = 255
        cv2.imwrite(str(tmp_path / "images" / "made" / f"{name}.png"), grey)
        cv2.imwrite(str(tmp_path / "masks" / "made" / f"{name}.png"), labels)
        objects = [
            {"id": 1, "category": "cup", "thing": things[0], "eval": True},
            {"id": 2, "category": "wall", "thing": things[1], "eval": True},
            {"id": 3, "category": "speck", "thing": True, "eval": False},
        ]
        entry = {"image": f"images/made/{name}.png", "mask": f"masks/made/{name}.png", "width": WIDTH}
        images.append({**entry, "height": HEIGHT, "ignore_label": 255, "objects": objects})
    (tmp_path / "images.json").write_text(json.dumps({"images": images}))

    videos = []
    for name in ("davis_square", "square"):
        folder = tmp_path / "videos" / name
        write_video(folder / "video.mp4", [np.full((HEIGHT, WIDTH, 3), 20 * k, np.uint8) for k in range(FRAMES)])
        (folder / "masks").mkdir()
        for k in range(FRAMES):
            cv2.imwrite(str(folder / "masks" / f"{k:05d}.png"), moving_square(k))
        entry = {"name": name, "video": f"videos/{name}/video.mp4", "masks": f"videos/{name}/masks"}
        videos.append({**entry, "gt_frames": list(range(FRAMES)), "objects": [{"id": 1}, {"id": 2}]})
    videos.append({"name": "bare", "video": "videos/bare/video.mp4", "gt_frames": [], "objects": []})
    videos.append({**videos[1], "name": "mapped", "frame_map": "videos/square/map.json"})
    (tmp_path / "videos.json").write_text(json.dumps({"videos": videos}))

    samples = [
        {"image": "images/made/a.png", "mask": "masks/made/a.png", "object_ids": [1], "expression": "the cup"},
        {"image": "images/made/b.png", "mask": "masks/made/b.png", "object_ids": [1, 2], "expression": "both"},
        {"video": "videos/square/video.mp4", "masks": "videos/square/masks", "object_ids": [1], "expression": "it"},
    ]
    (tmp_path / "referring.json").write_text(json.dumps({"samples": samples}))
    return tmp_path
