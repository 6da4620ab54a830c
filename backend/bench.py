"""``python -m backend bench``: what the server adds to the engine's time, and the codecs beside those of the libraries.

The engine is a stand-in that answers at once, so every millisecond is the server's. The codecs write and read the same
masks as Label Studio's SDK, pycocotools and Pillow, in the same run, and the results are compared.
"""

from __future__ import annotations

import base64
import io
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import cv2
import numpy as np
import typer
from flask import Flask
from PIL import Image
from rich.console import Console
from rich.table import Table

from backend.export_masks import Runs
from backend.results import bitmask_url
from backend.rle import decode_mask, encode_mask
from backend.settings import Settings
from x2sam.errors import MeasurementError
from x2sam.inference.feature_cache import FeatureCounts
from x2sam.structures import Mask, Prompt
from x2sam.vitals import EngineVitals

SIZES = {"1080p": (1080, 1920), "4K": (2160, 3840)}
BODY_BYTES = 17_000_000
_BYTES_OF_A_NUMBER = (10 * 2 + 90 * 3 + 156 * 4) / 256  # from 0 to 255, with a comma
_PACE = 0.02  # seconds from one small request to the next
CONFIG = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="Object"/></BrushLabels>
  <KeyPointLabels name="point" toName="image" smart="true"><Label value="Object"/></KeyPointLabels>
</View>"""


@dataclass(frozen=True)
class Codec:
    """``ours`` and ``theirs`` make something of a mask bool (H, W); ``read`` makes the mask of either, as a proof."""

    name: str
    library: str
    ours: Callable[[Any], Any]
    theirs: Callable[[Any], Any]
    read: Callable[[Any, tuple[int, int]], np.ndarray]


def blob(size: tuple[int, int]) -> np.ndarray:
    """bool (H, W): an object with a rough outline and holes, about a third of the picture, as a network finds it."""
    noise = np.random.default_rng(7).normal(size=size).astype(np.float32)
    rows, cols = np.ogrid[: size[0], : size[1]]
    around = 1 - ((rows - size[0] / 2) / size[0]) ** 2 * 9 - ((cols - size[1] / 2) / size[1]) ** 2 * 9
    return around + cv2.GaussianBlur(noise, (0, 0), size[0] / 60) * size[0] / 25 > 0


def codecs() -> list[Codec]:
    from label_studio_sdk.converter.brush import decode_rle, mask2rle
    from pycocotools import mask as coco

    def sdk_read(rle: list[int], size: tuple[int, int]) -> np.ndarray:
        return decode_rle(rle).reshape(*size, 4)[..., 3] > 127

    def png(mask: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
        return file.getvalue()

    def png_read(made: str | bytes, _size: tuple[int, int]) -> np.ndarray:
        content = made if isinstance(made, bytes) else base64.b64decode(made.partition(",")[2])
        picture = Image.open(io.BytesIO(content))
        return np.asarray(picture if picture.mode == "L" else picture.convert("RGBA").getchannel("A")) > 127

    def coco_plain(mask: np.ndarray) -> Runs:
        made = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        return Runs(mask.shape, made["counts"].decode())

    return [
        Codec("brush, write", "Label Studio SDK", encode_mask, lambda m: mask2rle(m.astype(np.uint8) * 255), sdk_read),
        Codec("bitmask PNG, write", "Pillow, as the SDK saves it", bitmask_url, png, png_read),
        Codec("COCO, write", "pycocotools", Runs.of, coco_plain, lambda runs, _: runs.mask()),
    ]


def measure_codecs(repeats: int, step: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """A row for each codec and size. Times are the processor's, the least of ``repeats``: other people's work on the
    machine only adds. Raises MeasurementError where the two ways give different masks."""
    from label_studio_sdk.converter.brush import decode_rle

    rows = []
    for name, size in SIZES.items():
        mask = blob(size)
        for codec in codecs():
            step(f"{codec.name}, {name}")
            ours, made = least(repeats, codec.ours, mask)
            theirs, other = least(min(repeats, 2), codec.theirs, mask)
            if not all(np.array_equal(codec.read(value, size), mask) for value in (made, other)):
                raise MeasurementError(f"{codec.name} at {name} does not give the mask back; don't trust this")
            rows.append(_row(codec.name, name, codec.library, ours, theirs))
        step(f"brush, read, {name}")
        rle = encode_mask(mask)
        ours, made = least(repeats, lambda r, s=size: decode_mask(r, *s), rle)
        theirs, other = least(1, lambda r, s=size: decode_rle(r).reshape(*s, 4)[..., 3] > 127, rle)
        if not (np.array_equal(made, mask) and np.array_equal(other, mask)):
            raise MeasurementError(f"reading brush masks at {name} does not give the mask back; don't trust this")
        rows.append(_row("brush, read", name, "Label Studio SDK", ours, theirs))
    return rows


def _row(codec: str, size: str, library: str, ours: float, theirs: float) -> dict[str, Any]:
    return {
        "codec": codec, "size": size, "library": library, "ms": round(ours, 3), "library_ms": round(theirs, 3),
        "ratio": round(theirs / ours, 2),
    }  # fmt: skip


def least(repeats: int, work: Callable[[Any], Any], value: Any) -> tuple[float, Any]:
    """Milliseconds of the processor and the result."""
    best = float("inf")
    for _ in range(repeats):
        began = time.thread_time()
        made = work(value)
        best = min(best, (time.thread_time() - began) * 1e3)
    return best, made


class InstantSession:
    """Looks at the picture, as the real one does for its last step, and gives the mask that is there already."""

    def __init__(self, frames: Any, mask: np.ndarray):
        self._frames, self._mask = frames, mask

    def segment(self, prompt: Prompt, frame: int = 0, priority: Any = None, replaces: Any = None) -> list[Mask]:
        assert self._frames[frame].shape[:2] == self._mask.shape
        return [Mask(self._mask, 0.9, prompt.object_id or "")]

    def segment_all(self, asked: Sequence[tuple[Prompt, int]], **how: Any) -> list[list[Mask]]:
        return [self.segment(prompt, frame, **how) for prompt, frame in asked]

    def prepare(self, frame: int = 0) -> int:
        return 0

    def close(self) -> None:
        """Nothing is held."""


class InstantEngine:
    """An engine that takes no time."""

    name, version, device, remembers, words = "instant", "instant", "cpu", True, ()
    features, vitals = FeatureCounts(), EngineVitals()

    def __init__(self, mask: np.ndarray):
        self._mask = mask

    def open(self, frames: Any, key: str | None = None) -> InstantSession:
        return InstantSession(frames, self._mask)

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def serving(size: tuple[int, int]) -> Iterator[tuple[Flask, str]]:
    """The real app around an instant engine, and the address of a picture of this size in a folder."""
    from backend.app import close_app, create_app

    with tempfile.TemporaryDirectory() as place:
        media = Path(place, "media")
        media.mkdir()
        noise = np.random.default_rng(1).integers(0, 256, (size[0] // 20, size[1] // 20, 3), np.uint8)
        Image.fromarray(cv2.resize(noise, size[::-1])).save(media / "picture.jpg", quality=90)
        settings = Settings(
            media_dirs=(str(media),), media_cache_dir=str(Path(place, "cache")), state_dir=str(Path(place, "state")),
            warm_tasks=0,
        )  # fmt: skip
        app = create_app(settings, lambda: InstantEngine(blob(size)))
        try:
            app.extensions["x2sam"].engines.wait(30)
            yield app, f"/data/local-files/?d={quote('picture.jpg')}"
        finally:
            close_app(app)


def click_body(address: str, number: int, size: tuple[int, int], filler: int = 0) -> bytes:
    """A request with another click each time; ``filler``: bytes of brush masks that the task has already."""
    value = {"x": 1 + number % 97, "y": 2 + number % 89, "width": 0.3, "keypointlabels": ["Object"]}
    prompt = {
        "id": f"click{number}", "from_name": "point", "to_name": "image", "type": "keypointlabels", "is_positive": True,
        "original_width": size[1], "original_height": size[0], "image_rotation": 0, "value": value,
    }  # fmt: skip
    runs = np.random.default_rng(5).integers(0, 256, int(filler / _BYTES_OF_A_NUMBER)).tolist()
    drawn = {"format": "rle", "rle": runs, "brushlabels": ["Object"]}
    region = {"id": "drawn", "type": "brushlabels", "from_name": "brush", "to_name": "image", "value": drawn}
    task = {"id": number + 1, "data": {"image": address}}
    task["annotations"] = [{"id": 1, "result": [region]}] if filler else []
    body = {"tasks": [task], "project": "1.1", "label_config": CONFIG, "params": {"context": {"result": [prompt]}}}
    return json.dumps(body, separators=(",", ":")).encode()


def measure_overhead(repeats: int) -> dict[str, Any]:
    """Milliseconds of /predict around the engine for a click on a known 1080p picture: parsing, the fetched and decoded
    picture, the mask as brush run lengths, the answer as JSON. ``cpu_ms`` is the processor's."""
    size = SIZES["1080p"]
    with serving(size) as (app, address):
        spent, worked, client = [], [], app.test_client()
        for number in range(repeats + 2):
            body = click_body(address, number, size)
            began, busy = time.perf_counter(), time.process_time()
            answer = client.post("/predict", data=body, content_type="application/json")
            spent.append((time.perf_counter() - began) * 1e3)
            worked.append((time.process_time() - busy) * 1e3)
            _check(answer)
    spent, worked = spent[2:], worked[2:]  # the first ones read the picture
    return {
        "p50_ms": round(statistics.median(spent), 2), "max_ms": round(max(spent), 2),
        "cpu_ms": round(statistics.median(worked), 2), "repeats": repeats,
    }  # fmt: skip


def _check(answer: Any) -> None:
    if answer.status_code != 200 or not any(r["result"] for r in answer.get_json()["results"]):
        raise MeasurementError(f"/predict gave no mask (status {answer.status_code}): {answer.text[:200]}")


def measure_stall(seconds: float) -> dict[str, Any]:
    """How long /health and a click take while requests of 17 MB are worked on one after another, and while nothing is.
    """
    size = SIZES["1080p"]
    with serving(size) as (app, address):
        body, until, done = click_body(address, 1, size, BODY_BYTES), [0.0], [0]

        def large() -> None:
            client = app.test_client()
            while time.monotonic() < until[0]:
                _check(client.post("/predict", data=body, content_type="application/json"))
                done[0] += 1

        clicks = [click_body(address, number, size) for number in range(2, 20)]
        idle = _small_requests(app, clicks, seconds / 2)
        until[0] = time.monotonic() + seconds
        thread = threading.Thread(target=large)
        thread.start()
        busy = _small_requests(app, clicks, seconds)
        thread.join()
    return {
        "body_mb": round(len(body) / 1e6, 1), "bodies": done[0], "idle": idle["/health"], "busy": busy["/health"],
        "click_idle": idle["click"], "click_busy": busy["click"],
    }  # fmt: skip


def _small_requests(app: Flask, clicks: Sequence[bytes], seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of /health and of clicks in turns at a steady pace. Each counts from when it was due: who holds
    Python's lock keeps a request from being begun, too."""
    client, until = app.test_client(), time.monotonic() + seconds
    spent: dict[str, list[float]] = {"/health": [], "click": []}
    due, number = time.perf_counter(), 0
    while time.monotonic() < until:
        due = max(due + _PACE, time.perf_counter())
        time.sleep(max(0.0, due - time.perf_counter()))
        if number % 2:
            _check(client.post("/predict", data=clicks[number % len(clicks)], content_type="application/json"))
        elif client.get("/health").status_code != 200:
            raise MeasurementError("/health does not answer")
        spent["click" if number % 2 else "/health"].append((time.perf_counter() - due) * 1e3)
        number += 1
    return {
        name: {"p50_ms": round(statistics.median(each), 2), "max_ms": round(max(each), 2)}
        for name, each in spent.items()
    }


def bench(
    repeats: Annotated[int, typer.Option(min=1, help="How often each thing is done.")] = 20,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long large requests come.")] = 5.0,
    result: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
) -> None:
    """The server's own share of an answer, large requests beside others, and the codecs beside the libraries'."""
    console = Console()
    found = {
        "overhead": measure_overhead(repeats), "large_bodies": measure_stall(seconds),
        "codecs": measure_codecs(min(repeats, 5)),
    }  # fmt: skip
    if result is not None:
        result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    share, large = found["overhead"], found["large_bodies"]
    console.print(
        f"/predict around the engine, 1080p: {share['p50_ms']} ms (p50), {share['cpu_ms']} ms of the processor\n"
        f"beside {large['bodies']} requests of {large['body_mb']} MB, p50 and at most:",
        highlight=False,
    )
    for name, busy, idle in (("/health", "busy", "idle"), ("a click", "click_busy", "click_idle")):
        told = (f"{large[key]['p50_ms']}, {large[key]['max_ms']} ms" for key in (busy, idle))
        console.print(f"  {name}: {'; alone '.join(told)}", highlight=False)
    table = Table("codec", "size", "ms", "library", "its ms", "times")
    for row in found["codecs"]:
        table.add_row(*(str(row[key]) for key in ("codec", "size", "ms", "library", "library_ms", "ratio")))
    console.print(table)
