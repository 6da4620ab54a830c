"""Every parser of what comes from outside, fed with damage: it answers, or says in its own error why not.

Requests as a whole are fuzzed in ``test_malformed_requests.py``. ``X2SAM_FUZZ_EXAMPLES=20000`` makes a long run of each
(the usual one has 200); the examples are the same ones every time. Videos are read by a library in C, so they are tried
in a process of their own, whose end by a signal would be seen.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from video_clips import write_clip

from backend.errors import LabelConfigError, MediaError, RunLengthError
from backend.evidence import StandingRegion
from backend.journal_codec import BROKEN, unpack, unpack_step
from backend.label_config import parse_label_config
from backend.pictures import decode_picture
from backend.remembered import Remembered
from backend.rle import decode_mask, encode_mask
from backend.standing import standing_mask

ROOT = Path(__file__).parents[2]
EXAMPLES = int(os.environ.get("X2SAM_FUZZ_EXAMPLES", "200"))
SIZE = (12, 17)
CONFIGS = [path.read_bytes() for path in sorted((ROOT / "label_config").glob("*.xml"))]
WORDS = [b"<", b">", b"/", b'"', b"&", b"&#0;", b"&#x110000;", b"<!DOCTYPE x>", b"<!--", b"]]>", b"toName=", b"name=",
         b"<View>", b"</View>", b"<Label/>", b"value=", b"$", b"\xff", b"\x00", b"<?xml version='1.0'?>"]  # fmt: skip


def long(*strategies):
    """As many examples as were asked for, the same ones every time."""

    def wrap(test):
        kept = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        return kept(seed(1)(given(*strategies)(test)))

    return wrap


def damaged(sources, pieces=None):
    """Sources with bytes changed, cut out, doubled or put in."""
    piece = st.binary(max_size=8) | (st.sampled_from(pieces) if pieces else st.binary(max_size=2))
    change = st.tuples(st.floats(0, 1), st.integers(0, 40), piece)

    def apply(source, changes):
        for place, length, put in changes:
            at = int(place * len(source))
            source = source[:at] + put + source[at + length :]
        return source

    return st.builds(apply, st.sampled_from(sources), st.lists(change, max_size=6))


@long(damaged(CONFIGS, WORDS))
def test_labeling_configurations(content):
    try:
        config = parse_label_config(content.decode("utf-8", "replace"))
    except LabelConfigError as error:
        assert 0 < len(str(error)) < 1000
    else:
        assert config is not None


def masks():
    drawn = np.random.default_rng(0).random((3, *SIZE)) > [[[0.5]], [[0.95]], [[0.05]]]
    return [mask for mask in drawn]


@long(damaged([bytes(encode_mask(mask)) for mask in masks()]), st.integers(0, 40), st.integers(0, 40))
def test_run_lengths(stream, height, width):
    try:
        mask = decode_mask(list(stream), height, width)
    except RunLengthError as error:
        assert str(error)
    else:
        assert mask.shape == (height, width) and mask.dtype == bool


def png(mode: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (*SIZE, 4), np.uint8)).convert(mode).save(file, "PNG")
    return file.getvalue()


PNGS = [png(mode) for mode in ("RGBA", "L", "1", "P", "LA", "I;16")]


@pytest.mark.filterwarnings("ignore::UserWarning")
@long(damaged(PNGS))
def test_png_files(content):
    try:
        picture = decode_picture(content, 10_000)
    except MediaError as error:
        assert str(error)
    else:
        assert picture.pixels.dtype == np.uint8 and picture.pixels.shape[2] == 3


NUMBERS = st.floats() | st.integers() | st.none() | st.text(max_size=3) | st.lists(st.floats(), max_size=3)
VALUES = {
    "bitmask": damaged(PNGS).map(lambda content: {"imageDataURL": "data:image/png;base64," + encoded(content)}),
    "brush": damaged([bytes(encode_mask(mask)) for mask in masks()]).map(lambda stream: {"rle": list(stream)}),
    "polygon": st.fixed_dictionaries({"points": st.lists(st.lists(NUMBERS, max_size=3), max_size=6) | NUMBERS}),
    "rectangle": st.dictionaries(st.sampled_from(["x", "y", "width", "height", "rotation"]), NUMBERS),
}


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("shape", VALUES)
def test_regions_that_stand_in_a_draft(shape):
    @long(VALUES[shape])
    def test(value):
        packed = standing_mask([StandingRegion("r", 0, "Object", shape, SIZE, value)], SIZE, Remembered())
        assert packed is None or packed.unpack().shape == SIZE

    test()


@long(st.binary(max_size=200) | damaged([b"\x00" * 40, b"\x93NUMPY" * 8]))
def test_what_a_journal_holds(content):
    for read in (unpack, unpack_step):
        with contextlib.suppress(*BROKEN):
            read(content)


VIDEOS = """
import contextlib, json, random, sys
from pathlib import Path
from x2sam.data.video import VideoReader
from x2sam.errors import FramesError
folder, examples = Path(sys.argv[1]), int(sys.argv[2])
sources, counts = sorted(folder.glob("good.*")), {"read": 0, "refused": 0}
for number in range(examples):
    dice = random.Random(number)
    source = dice.choice(sources)
    content = bytearray(source.read_bytes())
    head = dice.random() < 0.7  # most of what decides is at the two ends of a file
    for _ in range(dice.randint(1, 12)):
        at = dice.randrange(min(len(content), 1500)) if head else dice.randrange(len(content))
        at = at if dice.random() < 0.6 else -at
        content[at] = dice.choice((0, 255, dice.randrange(256), content[at] ^ 1 << dice.randrange(8)))
    if dice.random() < 0.3:
        del content[dice.randrange(len(content)):]
    path = folder / f"bad{source.suffix}"
    path.write_bytes(content)
    try:
        with VideoReader(path) as reader:
            for frame in {0, len(reader) - 1, len(reader) // 2}:
                shape = reader[frame].shape
                assert shape[2] == 3 and shape[:2] == reader.size, shape
        counts["read"] += 1
    except FramesError as error:
        assert str(error)
        counts["refused"] += 1
print(json.dumps(counts))
"""


def test_videos(tmp_path):
    for kind in ("mp4", "mkv", "avi"):
        write_clip(tmp_path / f"good.{kind}", 12)
    examples = str(EXAMPLES)
    command = [sys.executable, "-c", VIDEOS, str(tmp_path), examples]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=max(120, EXAMPLES))
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-3000:]}"
    counts = json.loads(done.stdout)
    assert sum(counts.values()) == EXAMPLES and min(counts.values()) > 0, counts
