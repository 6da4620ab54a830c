"""Rectangles over time in the editor of a real Label Studio: a text's answer takes the place of what stands."""

from __future__ import annotations

import av
import numpy as np
import pytest

RATE, FRAMES, SIZE, STEP = 10, 20, (64, 160), 2
MINE = {"frame": 8, "enabled": True, "rotation": 0, "x": 25, "y": 25, "width": 12.5, "height": 37.5, "time": 0.8}

_READY = """() => {
  const video = window.Htx?.annotationStore?.selected?.objects.find(item => item.type === "video");
  return Boolean(video?.ref?.current && video.length > 1);
}"""
_SHAPES = """frame => Htx.annotationStore.selected.regions.filter(region => region.type === "videorectangleregion")
  .map(region => region.getShape(frame))"""


@pytest.fixture(scope="module")
def clip(files):
    """A clip in a form that every Chromium plays, among the files of Label Studio."""
    with av.open(str(files / "made" / "clip.webm"), "w") as out:
        stream = out.add_stream("libvpx", rate=RATE, options={"cpu-used": "8"})
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        for number in range(FRAMES):
            image = np.full((*SIZE, 3), 40, np.uint8)
            image[16:40, 26 + STEP * number : 46 + STEP * number] = (210, 60, 40)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return "/data/local-files/?d=made/clip.webm"


def rectangles(items):
    return [item for item in items if item["type"] == "videorectangle"]


def test_track_follows_a_rectangle_that_stands(fake, editor, saved, clip):
    server, (project, _) = fake.label_studio, fake.project("video_boxes")
    task = fake.task("video_boxes", video=clip, video_fps=RATE)
    value = {"framesCount": FRAMES, "duration": 2, "sequence": [MINE], "labels": ["Object 2"]}
    drawn = {"id": "k3fJ2", "from_name": "box", "to_name": "video", "type": "videorectangle", "value": value}
    server.api("POST", f"/api/tasks/{task}/drafts", {"result": [drawn], "lead_time": 1})
    editor.page.goto(f"{server.url}/projects/{project}/data?task={task}", wait_until="commit")
    editor.page.wait_for_function(_READY)
    editor.page.wait_for_load_state("networkidle")
    editor.picture("open")
    editor.switch_on()

    asked = editor.type("track")
    (item,) = rectangles(asked.items)
    (now,) = rectangles(editor.results())
    assert now["id"] == "k3fJ2", "the rectangle is changed, no other one is added"
    frames = [key["frame"] for key in now["value"]["sequence"]]
    assert frames == [key["frame"] for key in item["value"]["sequence"]] == [1, 8, FRAMES]
    assert (now["value"]["framesCount"], item["value"]["framesCount"]) == (FRAMES, FRAMES)
    for key, answered in zip(now["value"]["sequence"], item["value"]["sequence"], strict=True):
        assert key["time"] == pytest.approx(answered["time"], abs=1e-6), "the editor counts time as we do"
    for frame in range(1, FRAMES + 1):
        (shape,) = editor.page.evaluate(_SHAPES, frame)
        assert shape["x"] == pytest.approx(25 + (frame - 8) * STEP / 1.6, abs=0.7)
    assert "tracked 20 frames." in editor.shown("reply")

    (kept,) = rectangles(saved(editor.submit()))
    assert MINE in kept["value"]["sequence"]
