"""Videos of Video tags: frames by Label Studio's numbers, a few decoded at a time, files that go meanwhile."""

from __future__ import annotations

import pytest
from video_clips import number_in, write_clip

from backend.errors import LabelConfigError, MediaError, MediaTimeoutError, MediaTooLargeError
from backend.label_config import ObjectTag, parse_label_config
from backend.video_files import ClipFrames, VideoFiles, frame_rate
from backend.video_library import VideoLibrary
from x2sam.data.video import VideoReader


@pytest.fixture
def clips(pictures, tmp_path):
    """Puts a clip on the server; its address."""

    def put(name, **fields):
        pictures.files[name] = write_clip(tmp_path / name, **fields).read_bytes()
        return f"/data/local-files/?d={name}"

    return put


@pytest.fixture
def files(fetcher_for):
    return VideoFiles(fetcher_for(), 10_000_000)


@pytest.mark.parametrize("rate", [5, 10, 20, 24, 29.97])
def test_every_number_shows_its_frame(files, clips, rate):
    frames = ClipFrames(files, files.open(clips("a.mp4")), rate)
    assert frames.size_of(0) == (64, 160)
    for number in range(1, len(frames.shown) + 1):
        shown = min(int((number - 1) / rate * 10 + 1e-3), 19)
        assert number_in(frames[frames.at(number)]) == shown
    assert len(frames) == len({number_in(frames[i]) for i in range(len(frames))}), "each frame once"


def test_uneven_times(files, clips):
    frames = ClipFrames(files, files.open(clips("a.mp4", count=4, stamps=[0, 1, 5, 6])), 10)
    assert [number_in(frames[frames.at(number)]) for number in range(1, 8)] == [0, 1, 1, 1, 1, 2, 3]
    assert frames.at(0) == 0 and frames.at(99) == len(frames) - 1


def test_names_follow_the_content(files, clips):
    one, copy, other = (ClipFrames(files, files.open(clips(f"{n}.mp4", shift=n // 2)), 10) for n in range(3))
    assert one.key == copy.key != other.key
    assert one.digest(3) == copy.digest(3) != one.digest(4)
    half = ClipFrames(files, one.video, 5)
    assert half.key != one.key and half.digest(2) == one.digest(4), "the same picture is encoded once"


def test_few_are_open_and_those_that_were_closed_open_again(fetcher_for, clips, monkeypatch):
    opened = []
    init = VideoReader.__init__
    monkeypatch.setattr(VideoReader, "__init__", lambda self, *given: opened.append(given) or init(self, *given))
    files = VideoFiles(fetcher_for(), 10_000_000, most_open=1)
    one, other = (ClipFrames(files, files.open(clips(f"{n}.mp4", shift=20 * n)), 10) for n in range(2))
    for frame in (0, 7, 3):
        assert (number_in(one[frame]), number_in(other[frame])) == (frame, 20 + frame)
    assert len(opened) > 4
    indexes = [given[2] for given in opened]
    assert indexes.count(None) == 2, "where its frames are is found out once"


def test_a_file_that_the_cache_dropped_is_fetched_again(fetcher_for, clips, pictures):
    fetcher = fetcher_for()
    files = VideoFiles(fetcher, 10_000_000, reader_bytes=1)
    address = clips("a.mp4")
    frames = ClipFrames(files, files.open(address), 10)
    assert number_in(frames[15]) == 15
    fetcher.fetch(address).path.unlink()
    assert [number_in(frames[i]) for i in (2, 1, 0)] == [2, 1, 0]
    fetcher.fetch(address).path.unlink()
    del pictures.files["a.mp4"]
    clips("a.mp4", shift=30)
    with pytest.raises(MediaError, match="changed"):
        [frames[i] for i in (19, 2, 0)]


def test_known_videos_are_not_looked_through(fetcher_for, clips, settings, tmp_path, monkeypatch):
    from pathlib import Path

    address = clips("a.mp4")
    VideoLibrary(Path(settings.state_dir)).add(tmp_path / "a.mp4")
    monkeypatch.setattr(VideoReader, "_read_index", None)
    files = VideoFiles(fetcher_for(), 10_000_000)
    assert number_in(ClipFrames(files, files.open(address), 10)[19]) == 19


def test_what_can_not_be_used(fetcher_for, files, clips, pictures, monkeypatch):
    pictures.files["b.mp4"] = b"no video"
    with pytest.raises(MediaError, match="not a video"):
        files.open("/data/local-files/?d=b.mp4")
    with pytest.raises(MediaTooLargeError):
        VideoFiles(fetcher_for(), 10_000).open(clips("a.mp4"))
    with pytest.raises(LabelConfigError, match="more than"):
        monkeypatch.setattr("backend.video_files._MOST_FRAMES", 10)
        ClipFrames(files, files.open(clips("a.mp4")), 10)
    monkeypatch.setattr("backend.video_files._INDEX_SECONDS", -1)
    with pytest.raises(MediaTimeoutError, match="too long"):
        files.open(clips("c.mp4", shift=5))


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        ("25", 25), ("", 24), ("$fps", 12.5), ("$text", 15), ("$none", 24), ("$junk", 24), ("0", 24), ("0.5", 2),
        ("nan", 24), ("x", 24), ("29.97", 29.97),
    ],
)  # fmt: skip
def test_the_rate_is_read_as_the_editor_reads_it(written, rate):
    data = {"fps": 12.5, "text": "15", "junk": {"a": 1}}
    assert frame_rate(ObjectTag("video", "video", "$video", False, written), data) == rate


def test_rates_that_no_video_has():
    for written in ("1e9", "-3"):
        with pytest.raises(LabelConfigError):
            frame_rate(ObjectTag("video", "video", "$video", False, written), {})


def test_the_rate_comes_from_the_configuration():
    xml = '<View><Video name="video" value="$video" frameRate="$fps"/></View>'
    assert parse_label_config(xml).objects["video"].framerate == "$fps"
