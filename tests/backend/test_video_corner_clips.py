"""The unusual video files of the shared data, imported as pages and read for the Video tag: frame i is frame i.

They are looked for in X2SAM_DATA_DIR, by default ../shared/data; without them these tests are skipped, and the clips
that the other tests of videos encode stand in.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from label_studio_standin import TOKEN, LabelStudioStandIn
from PIL import Image
from typer.testing import CliRunner

from backend.cli import app
from backend.errors import MediaError
from backend.file_cache import FileCache
from backend.media import MediaFetcher
from backend.settings import Settings
from backend.video_addresses import split_address
from backend.video_files import ClipFrames, VideoFiles
from backend.video_frames import VideoFrames

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("X2SAM_DATA_DIR", ROOT.parent / "shared" / "data"))
if not (DATA / "MANIFEST.json").is_file():
    pytest.skip(f"no data in {DATA}; set X2SAM_DATA_DIR", allow_module_level=True)

CLIPS = {
    item["path"].rsplit("/", 1)[1]: item["probe"]
    for item in json.loads((DATA / "MANIFEST.json").read_text(encoding="utf-8"))["items"]
    if item["path"].startswith("corner_cases/videos/")
}
READABLE = sorted(name for name, probe in CLIPS.items() if probe["decoded_frames"])
STAMPED = [name for name in READABLE if CLIPS[name].get("stamps") == "frame i shows stamp i"]
FIRST_STAMP = {"edit_list.mp4": 6}  # numbers count what a player shows, so an edit list shifts them
TURNED_BACK = {"rot90.mp4": -1, "rot180.mp4": 2, "rot270.mp4": 1}  # quarter turns against the display matrix
EVEN = [name for name in STAMPED if not name.startswith("vfr")]


def stamp(name: str, frame: np.ndarray) -> int:
    """The number in the ten cells of 8x8 pixels in the stored picture's top left corner."""
    stored = np.rot90(frame, TURNED_BACK.get(name, 0))
    cells = [stored[2:6, 8 * bit + 2 : 8 * bit + 6].mean() > 128 for bit in range(10)]
    return int("".join(str(int(cell)) for cell in cells), 2)


def test_all_are_imported_and_their_pages_show_their_frames(tmp_path, monkeypatch):
    server = LabelStudioStandIn()
    values = {
        "LABEL_STUDIO_URL": server.url,
        "LABEL_STUDIO_API_KEY": TOKEN,
        "BACKEND_PUBLIC_URL": "http://pages.test:9090",
        "X2SAM_STATE_DIR": str(tmp_path / "state"),
        "X2SAM_CACHE_DIR": str(tmp_path / "cache"),
    }
    for variable, value in values.items():
        monkeypatch.setenv(variable, value)
    try:
        paths = [str(DATA / "corner_cases" / "videos" / name) for name in CLIPS]
        told = CliRunner().invoke(app, ["video", "import", *paths, "--project", "1", "--json", str(tmp_path / "out")])
        result = json.loads((tmp_path / "out").read_text())
        assert set(result["failed"]) == CLIPS.keys() - set(READABLE) and told.exit_code == 1
        assert "Traceback" not in told.output
        assert {video["name"]: video["pages"] for video in result["videos"]} == {
            name: CLIPS[name]["decoded_frames"] for name in READABLE
        }
        frames = VideoFrames.of(Settings.from_environment())
        pages = {task["data"]["video_id"]: task["data"]["frames"] for task in server.tasks()}
        ids = {video["name"]: video["video_id"] for video in result["videos"]}
        for name in [*STAMPED, "edit_list.mp4"]:
            for page, address in enumerate(pages[ids[name]]):
                video_id, frame, _ = split_address(address)
                assert frame == page
                if page % 9 == 4:
                    picture = np.asarray(Image.open(io.BytesIO(frames.read(video_id, frame))))
                    assert stamp(name, picture) == page + FIRST_STAMP.get(name, 0), name
    finally:
        server.close()


@pytest.fixture
def files(settings, tmp_path):
    settings = replace(settings, media_dirs=(str(DATA / "corner_cases" / "videos"),))
    return VideoFiles(MediaFetcher(settings, FileCache(tmp_path / "media", 10**9, 3600)), 10**7)


@pytest.mark.parametrize("name", EVEN)
def test_numbers_of_the_video_tag_are_frames_of_the_file(files, name):
    video = files.open(name)
    frames = ClipFrames(files, video, CLIPS[name]["avg_fps"])
    assert len(frames) == len(frames.shown) == CLIPS[name]["decoded_frames"]
    for number in {1, len(frames) // 2 + 1, len(frames)}:
        assert stamp(name, frames[frames.at(number)]) == number - 1


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr_dup.mkv"])
def test_uneven_times_show_what_stands_on_the_screen(files, name):
    video = files.open(name)
    frames = ClipFrames(files, video, 24)
    for number in range(1, len(frames.shown) + 1, 7):
        on_screen = np.searchsorted(video.times, (number - 1) / 24 + 1e-3, side="right") - 1
        assert stamp(name, frames[frames.at(number)]) == on_screen


@pytest.mark.parametrize("name", sorted(CLIPS.keys() - set(READABLE)))
def test_files_without_pictures_are_told(files, name):
    with pytest.raises(MediaError, match="not a video that can be decoded"):
        files.open(name)
