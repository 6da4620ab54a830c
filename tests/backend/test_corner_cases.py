"""Unusual pictures through the whole service: from the address in a task to the mask in the answer.

The collected ones are looked for in X2SAM_DATA_DIR, by default ../shared/data, and skipped where they are not; what
matters most about them is made anew in ``test_pictures.py`` and below.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from huge_picture import CONFIG, HEIGHT, WIDTH, huge_jpeg
from label_studio_sdk.converter import brush
from picture_server import picture_bytes
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("X2SAM_DATA_DIR", ROOT.parent / "shared" / "data"))
X, Y = 30.0, 70.0
MOST_MEGABYTES = 1000


def collected():
    manifest = DATA / "MANIFEST.json"
    if not manifest.is_file():
        reason = f"no data in {DATA}; set X2SAM_DATA_DIR"
        return [pytest.param({}, id="none", marks=pytest.mark.skip(reason=reason))]
    items = json.loads(manifest.read_text(encoding="utf-8"))["items"]
    cases = [item for item in items if item["path"].startswith("corner_cases/images/")]
    return [pytest.param(item, id=Path(item["path"]).name) for item in cases]


@pytest.fixture
def click(client, pictures, engine):
    """The reply to a click on a picture with the given content, and what the engine saw."""

    def send(content, name="picture"):
        path = "/data/upload/1/" + quote(name)
        pictures.files[path] = content
        value = {"x": X, "y": Y, "width": 0.2, "keypointlabels": ["Object"]}
        item = {"id": "a", "from_name": "point", "to_name": "image", "type": "keypointlabels", "value": value}
        body = {
            "tasks": [{"id": 1, "data": {"image": path}}],
            "label_config": CONFIG.format(tag="BrushLabels"),
            "params": {"context": {"result": [item]}},
        }
        reply = client.post("/predict", json=body)
        seen = engine.sessions[-1].frames[0] if reply.status_code == 200 else None
        return reply, seen

    return send


def mask_in(reply):
    """The mask, after checking that it lies where the click was."""
    assert reply.status_code == 200, reply.json
    ((item,),) = (entry["result"] for entry in reply.json["results"])
    height, width = item["original_height"], item["original_width"]
    mask = brush.decode_rle(item["value"]["rle"]).reshape(height, width, 4)[..., 3] > 127
    assert mask[int(Y / 100 * height), int(X / 100 * width)]
    return mask


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", collected())
def test_collected_pictures(click, case):
    path = DATA / case["path"]
    expect = case["expect"]
    reply, seen = click(path.read_bytes(), path.name)
    if expect in ("error", "error or reject"):
        assert 400 <= reply.status_code < 500, expect
    elif expect.startswith("decode") and "or" not in expect.split():
        assert reply.status_code == 200, reply.json
    if reply.status_code != 200:
        assert 400 <= reply.status_code < 500
        assert len(reply.json["error"]) > 20
        assert "Traceback" not in reply.json["error"]
        return
    if max(seen.shape) < 16:
        return  # smaller than the disc that the stand-in draws
    mask = mask_in(reply)
    assert mask.shape == seen.shape[:2]
    assert seen.max() > seen.min() or seen.size < 20_000, "the picture has something on it"
    if "display_size" in case:
        assert list(mask.shape[::-1]) == case["display_size"]
    if "landscape" in expect or "portrait" in expect:
        assert (mask.shape[0] < mask.shape[1]) is ("landscape" in expect)
    original = original_of(case)
    if original is not None and original.shape == seen.shape:
        grey = np.ptp(seen, axis=2).max() == 0
        truth = np.asarray(Image.fromarray(original).convert("L"))[..., None] if grey else original
        assert np.abs(seen.astype(int) - truth).mean() < 6, "upright, and with the brightness and colours it had"
    elif "mask" in case:
        pytest.fail(f"{seen.shape[:2]} is not the size of its original")


def original_of(case):
    """The ordinary picture from which a corner case was made."""
    if "mask" in case:
        (path,) = (DATA / "images").glob(f"*/{Path(case['mask']).stem}.jpg")
    elif "exif_Landscape" in case["path"]:
        path = DATA / "corner_cases" / "images" / "exif_Landscape_1.jpg"
    else:
        return None
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_name_with_everything_in_it(click):
    reply, _ = click(picture_bytes(60, 40), "имя файла 画像 #1 100%.jpg")
    assert mask_in(reply).shape == (40, 60)


@pytest.mark.parametrize("size", [(1, 1), (3, 1500), (6000, 40)])
def test_extreme_shapes(click, size):
    reply, seen = click(picture_bytes(*size))
    assert seen.shape == (*size[::-1], 3)
    assert reply.json["results"][0]["result"] == [] if max(size) < 16 else mask_in(reply).shape == size[::-1]


def test_a_photograph_on_its_side(click):
    exif = Image.Exif()
    exif[0x0112] = 8
    reply, seen = click(picture_bytes(60, 40, "JPEG", exif=exif, quality=95))
    assert mask_in(reply).shape == (60, 40)
    assert seen[0, 0, 0] > 200 > 60 > seen[-1, 0, 0], "red grows from the bottom to the top"


@pytest.mark.parametrize("content", [b"", b"<html>403</html>", picture_bytes(64, 64, "JPEG")[:-200]])
def test_what_is_no_picture_is_told(click, content):
    reply, _ = click(content)
    assert reply.status_code == 422
    assert "not a picture" in reply.json["error"]


@pytest.mark.parametrize("tag", ["BrushLabels", "BitmaskLabels"])
def test_a_click_on_200_megapixels(tmp_path, tag):
    (tmp_path / "huge.jpg").write_bytes(huge_jpeg())
    script = [sys.executable, str(Path(__file__).with_name("huge_picture.py")), str(tmp_path), "huge.jpg", tag]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*script, str(X), str(Y)], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["status"] == 200, told
    (item,) = told["answer"]["results"][0]["result"]
    assert (item["original_width"], item["original_height"]) == (WIDTH, HEIGHT)
    assert told["peak"] < MOST_MEGABYTES, told
