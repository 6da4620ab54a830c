"""Reading videos by frame number: order, seeking, rotation, odd files."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from x2sam.data.video import VideoReader
from x2sam.data.video_index import VideoIndex
from x2sam.errors import FramesError

COUNT = 30


def picture(number: int, height: int = 96, width: int = 160) -> np.ndarray:
    """A frame that shows its number as five big bits along the top; the lower half is a gradient."""
    image = np.full((height, width, 3), 40, np.uint8)
    for bit in range(5):
        if number >> bit & 1:
            image[: height // 2, bit * width // 5 : (bit + 1) * width // 5] = 220
    image[height // 2 :, :, 0] = np.linspace(0, 255, width, dtype=np.uint8)
    return image


def number_of(frame: np.ndarray) -> int:
    height, width = frame.shape[:2]
    cells = [frame[: height // 2 - 4, bit * width // 5 + 4 : (bit + 1) * width // 5 - 4] for bit in range(5)]
    return sum(int(cell.mean() > 128) << bit for bit, cell in enumerate(cells))


def write(path: Path, codec="libx264", pixels="yuv420p", count=COUNT, stamps=None, **options) -> Path:
    options = {k: str(v) for k, v in options.items()}
    with av.open(str(path), "w", options={k: options.pop(k) for k in ("movflags",) if k in options}) as out:
        stream = out.add_stream(codec, rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 96, pixels
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            frame.pts = i if stamps is None else stamps[i]
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


FILES = {
    "b_frames.mp4": {"bf": 3, "g": 12},
    "one_key.mp4": {"bf": 2, "g": 500, "keyint_min": 500, "sc_threshold": 0},
    "stream.ts": {"bf": 2, "g": 10},
    "open_gop.mkv": {"bf": 3, "g": 10, "x264-params": "open-gop=1"},
    "uneven.mp4": {"bf": 2, "g": 10, "stamps": [i + 3 * (i // 7) for i in range(COUNT)]},
    "motion.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "part2.avi": {"codec": "mpeg4", "g": 8},
    "ten_bits.mp4": {"codec": "libx265", "pixels": "yuv420p10le", "x265-params": "log-level=none:keyint=12:bframes=3"},
    "hidden_pictures.webm": {"codec": "libvpx-vp9", "g": 12, "lag-in-frames": 16, "auto-alt-ref": 1, "cpu-used": 8},
    "hidden_packets.webm": {"codec": "libvpx", "g": 12, "lag-in-frames": 16, "auto-alt-ref": 1, "cpu-used": 8},
    "fragments.mp4": {"bf": 2, "g": 10, "movflags": "frag_keyframe+empty_moov"},
}


@pytest.fixture(params=list(FILES))
def clip(request, tmp_path):
    return write(tmp_path / request.param, **FILES[request.param])


def test_frames_come_in_the_order_in_which_they_are_shown(clip):
    with VideoReader(clip) as video:
        assert len(video) == COUNT
        assert video.size == (96, 160)
        assert [number_of(frame) for frame in video] == list(range(COUNT))
        assert video[0].dtype == np.uint8 and video[0].shape == (96, 160, 3)


def test_any_frame_is_the_same_as_read_in_order(clip):
    with VideoReader(clip) as forward, VideoReader(clip, cache_bytes=1) as jumping:
        for i in np.random.default_rng(1).permutation(COUNT):
            assert np.array_equal(forward[int(i)], jumping[int(i)])
        assert [number_of(jumping[i]) for i in range(COUNT - 1, -1, -1)] == list(range(COUNT - 1, -1, -1))


def test_reading_backward_decodes_each_stretch_few_times(tmp_path, monkeypatch):
    path = write(tmp_path / "one_key.mp4", **FILES["one_key.mp4"])
    video = VideoReader(path, cache_bytes=10 * 160 * 96 * 3)
    restarts = []
    restart = video._restart
    monkeypatch.setattr(video, "_restart", lambda frame: (restarts.append(frame), restart(frame)))
    for i in range(COUNT - 1, -1, -1):
        assert number_of(video[i]) == i
    assert len(restarts) <= COUNT // 10 + 1


def test_few_frames_are_held(tmp_path):
    video = VideoReader(write(tmp_path / "a.mp4"), cache_bytes=4 * 160 * 96 * 3)
    for i in range(COUNT):
        video[i]
    assert len(video._cache) == 4


@pytest.mark.parametrize("stamps", [[9, 3, 6, 12], [3, None, 3], []])
def test_an_index_can_be_kept(stamps):
    index = VideoIndex(stamps, [1] if stamps else [])
    again = VideoIndex.from_bytes(index.to_bytes())
    assert (again.stamps, again.exact, len(again)) == (index.stamps, index.exact, len(index))
    assert [again.key_before(i) for i in range(len(stamps))] == [index.key_before(i) for i in range(len(stamps))]


def test_a_damaged_index_says_so():
    data = VideoIndex([0, 1, 2], [0]).to_bytes()
    for wrong in (b"", b"something else", data[:-3], data.replace(b"index-1", b"index-9")):
        with pytest.raises(FramesError, match="import the video again"):
            VideoIndex.from_bytes(wrong)


def test_a_kept_index_saves_reading_the_file(tmp_path, monkeypatch):
    path = write(tmp_path / "a.webm", **FILES["hidden_packets.webm"])
    index = VideoReader(path).index
    monkeypatch.setattr(VideoReader, "_read_index", None)
    assert number_of(VideoReader(path, index=index)[17]) == 17


def test_progress_is_told(tmp_path):
    for name in ("one_key.mp4", "hidden_pictures.webm"):
        seen = []
        VideoReader(write(tmp_path / name, **FILES[name]), progress=seen.append)
        assert seen == list(range(1, COUNT + 1))


def test_negative_numbers_and_the_end(tmp_path):
    video = VideoReader(write(tmp_path / "a.mp4"))
    assert number_of(video[-1]) == COUNT - 1
    with pytest.raises(IndexError, match="30 frames"):
        video[COUNT]


def test_frames_cannot_be_painted_over(tmp_path):
    with pytest.raises(ValueError):
        VideoReader(write(tmp_path / "a.mp4"))[0][:] = 0


def test_rate_and_times(tmp_path):
    video = VideoReader(write(tmp_path / "a.mp4"))
    assert video.fps == pytest.approx(24)
    assert video.times == pytest.approx(np.arange(COUNT) / 24)
    uneven = VideoReader(write(tmp_path / "u.mp4", **FILES["uneven.mp4"]))
    assert uneven.times == pytest.approx(np.array(FILES["uneven.mp4"]["stamps"]) / 24)


@pytest.mark.parametrize(
    # Rows a b / c d of the track's matrix, and the turn, counterclockwise, that shows the picture upright.
    ("matrix", "turns"),
    [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
)
def test_the_display_matrix_is_obeyed(tmp_path, matrix, turns):
    path = write(tmp_path / "turned.mp4")
    data = bytearray(path.read_bytes())
    # tkhd version 0: the matrix a b u / c d v / x y w starts 40 bytes after the type and version.
    at = data.index(b"tkhd") + 4 + 4 + 36
    for slot, value in zip((0, 1, 3, 4), matrix, strict=True):
        data[at + 4 * slot : at + 4 * slot + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    video = VideoReader(path)
    plain = VideoReader(write(tmp_path / "plain.mp4"))
    assert video.size == ((160, 96) if turns % 2 else (96, 160))
    assert np.array_equal(video[5], np.rot90(plain[5], turns))


def test_a_file_that_was_cut_off_gives_what_is_there(tmp_path):
    path = write(tmp_path / "cut.ts", g=5)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    video = VideoReader(path)
    assert 1 <= len(video) < COUNT
    assert [number_of(f) for f in video][: len(video) - 2] == list(range(len(video) - 2))


def test_a_whole_file_misses_nothing(clip):
    with VideoReader(clip) as video:
        assert video.missing == 0


def test_a_last_frame_that_stands_for_long_is_no_missing_end(tmp_path):
    """As in recordings of a screen on which nothing moves any more."""
    path = tmp_path / "screen.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=24, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        packets = []
        for i in range(COUNT):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            frame.pts = i
            packets += stream.encode(frame)
        packets += stream.encode(None)
        packets[-1].duration = int(60 / packets[-1].time_base)
        for packet in packets:
            out.mux(packet)
    with VideoReader(path) as video:
        assert float(video._stream.duration * video._stream.time_base) > 60
        assert len(video) == COUNT and video.missing == 0


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi"])
def test_seconds_that_the_header_promises_are_missed(tmp_path, name):
    path = write(tmp_path / name, count=60, g=5, movflags="faststart", **({"bf": 0} if name == "cut.avi" else {}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 8 // 10])
    with VideoReader(path) as video:
        assert 1 <= len(video) < 57
        assert video.missing == pytest.approx((60 - len(video)) / 24, abs=2e-3)


def test_unreadable_files_say_so(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    for name, words in (("text.mp4", "player"), ("empty.mp4", "player"), ("sound.mp4", "no picture track")):
        with pytest.raises(FramesError, match=words):
            VideoReader(tmp_path / name)
    with pytest.raises(FramesError, match=r"missing\.mp4"):
        VideoReader(tmp_path / "missing.mp4")
