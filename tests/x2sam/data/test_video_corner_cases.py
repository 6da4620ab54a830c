"""The unusual video files of the shared data: frame i is frame i, in order, at random and backward.

They are looked for in X2SAM_DATA_DIR, by default ../shared/data; without them these tests are skipped, and the clips
that ``test_video.py`` encodes stand in.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from x2sam.data.video import VideoReader
from x2sam.data.video_index import VideoIndex
from x2sam.errors import FramesError
from x2sam.inference.frames import open_frames

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("X2SAM_DATA_DIR", ROOT.parent / "shared" / "data"))
if not (DATA / "MANIFEST.json").is_file():
    pytest.skip(f"no data in {DATA}; set X2SAM_DATA_DIR", allow_module_level=True)

CLIPS = {
    item["path"].rsplit("/", 1)[1]: item
    for item in json.loads((DATA / "MANIFEST.json").read_text(encoding="utf-8"))["items"]
    if item["path"].startswith("corner_cases/videos/")
}
UNREADABLE = {name for name, item in CLIPS.items() if not item["probe"]["decoded_frames"]}
READABLE = sorted(CLIPS.keys() - UNREADABLE)
STAMPED = [name for name in READABLE if CLIPS[name]["probe"].get("stamps") == "frame i shows stamp i"]
FIRST_STAMP = {"edit_list.mp4": 6}
TURNED_BACK = {"rot90.mp4": -1, "rot180.mp4": 2, "rot270.mp4": 1}  # quarter turns against the display matrix
SIZES = {
    "rot90.mp4": (320, 180),
    "rot270.mp4": (320, 180),
    "odd_321x181.mp4": (181, 321),
    "odd_319x179.webm": (179, 319),
    "sar_2_1.mp4": (180, 160),
    "tiny_16x16.mp4": (16, 16),
    "animated.gif": (113, 200),
}
RATES = {"fps_23976.mp4": 24000 / 1001, "fps_5994.mp4": 60000 / 1001, "fps_1.mp4": 1, "animated.gif": 25}


def stamp(name: str, frame: np.ndarray) -> int:
    """The number in the ten cells of 8x8 pixels in the stored picture's top left corner."""
    stored = np.rot90(frame, TURNED_BACK.get(name, 0))
    cells = [stored[2:6, 8 * bit + 2 : 8 * bit + 6].mean() > 128 for bit in range(10)]
    return int("".join(str(int(cell)) for cell in cells), 2)


@cache
def in_order(name: str) -> tuple[np.ndarray, ...]:
    with VideoReader(DATA / CLIPS[name]["path"]) as video:
        return tuple(video)


def test_all_files_are_looked_at():
    assert len(CLIPS) == 43
    assert len(STAMPED) == 33
    assert len(UNREADABLE) == 5


@pytest.mark.parametrize("name", READABLE)
def test_number_and_size_of_frames(name):
    frames = in_order(name)
    assert len(frames) == CLIPS[name]["probe"]["decoded_frames"]
    assert {frame.shape for frame in frames} == {(*SIZES.get(name, (180, 320)), 3)}


@pytest.mark.parametrize("name", [*STAMPED, "edit_list.mp4"])
def test_frames_in_order_show_their_numbers(name):
    first = FIRST_STAMP.get(name, 0)  # numbers count what a player shows, so an edit list shifts them
    shown = [stamp(name, frame) for frame in in_order(name)]
    assert shown == list(range(first, first + CLIPS[name]["probe"]["decoded_frames"]))


@pytest.mark.parametrize("name", [name for name in READABLE if name != "corrupt_bits.mp4"])
def test_any_frame_is_the_one_read_in_order(name):
    # What the decoder makes of corrupt_bits.mp4 differs from run to run.
    frames = in_order(name)
    with VideoReader(DATA / CLIPS[name]["path"], cache_bytes=1) as video:
        order = [*np.random.default_rng(5).permutation(len(frames)), *reversed(range(len(frames) // 3))]
        assert all(np.array_equal(video[int(i)], frames[int(i)]) for i in order)


@pytest.mark.parametrize("name", READABLE)
def test_the_index_can_be_kept(name):
    with VideoReader(DATA / CLIPS[name]["path"]) as video:
        kept, times, fps = VideoIndex.from_bytes(video.index.to_bytes()), video.times, video.fps
    with VideoReader(DATA / CLIPS[name]["path"], cache_bytes=1, index=kept) as again:
        assert again.times.tolist() == times.tolist()
        assert again.fps == fps
        middle = len(again) // 2
        if name != "corrupt_bits.mp4":
            assert np.array_equal(again[middle], in_order(name)[middle])


@pytest.mark.parametrize("name", READABLE)
def test_rates_and_times(name):
    probe = CLIPS[name]["probe"]
    with VideoReader(DATA / CLIPS[name]["path"]) as video:
        assert video.fps == pytest.approx(RATES.get(name, probe["avg_fps"]), rel=1e-9)
        assert video.times[0] == 0
        assert video.times[-1] == pytest.approx(probe["last_pts"] - probe["first_pts"], abs=1e-3)
        assert (np.diff(video.times) > 0).all()
        assert video.missing == 0


def test_uneven_times_are_kept():
    with VideoReader(DATA / CLIPS["vfr.mp4"]["path"]) as video:
        steps = np.diff(video.times)
    assert steps[:9] == pytest.approx(1 / 24)
    assert steps[10:24] == pytest.approx(1 / 8)
    assert steps[25:] == pytest.approx(1 / 24)


def test_flipped_bytes_do_not_stop_reading():
    frames = in_order("corrupt_bits.mp4")
    assert [stamp("corrupt_bits.mp4", frame) for frame in frames[-8:]] == list(range(32, 40))
    with VideoReader(DATA / CLIPS["corrupt_bits.mp4"]["path"], cache_bytes=1) as video:
        order = np.random.default_rng(3).permutation(len(frames))
        assert all(video[int(i)].shape == (180, 320, 3) for i in order)
        assert stamp("corrupt_bits.mp4", video[36]) == 36


@pytest.mark.parametrize("name", sorted(UNREADABLE))
def test_files_without_pictures_say_what_is_wrong(name):
    with pytest.raises(FramesError, match=name.replace(".", r"\.")) as told:
        VideoReader(DATA / CLIPS[name]["path"])
    assert "player" in str(told.value) or "give a file with pictures" in str(told.value)
    with pytest.raises(FramesError):
        open_frames(DATA / CLIPS[name]["path"])


@pytest.mark.parametrize("name", READABLE)
def test_the_engine_reads_the_same_frames(name):
    frames = open_frames(DATA / CLIPS[name]["path"])
    assert len(frames) == CLIPS[name]["probe"]["decoded_frames"]
    assert np.array_equal(frames[0], in_order(name)[0])
