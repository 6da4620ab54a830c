"""An hour of video is imported, and looked into anywhere, without ever being in memory or on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
from label_studio_standin import TOKEN, LabelStudioStandIn
from video_clips import HEIGHT, WIDTH, number_in, write_clip

from backend.video_addresses import split_address
from backend.video_frames import VideoFrames
from backend.video_library import VideoLibrary

ROOT = Path(__file__).parents[2]
RATE = 8
IMPORT = """
import resource, sys
from typer.testing import CliRunner
from backend.cli import app
done = CliRunner().invoke(app, ["video", "import", *sys.argv[1:]])
print(done.output, file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(done.exit_code)
"""


def write_long(path: Path, seconds: int) -> Path:
    """The same second of video again and again: encoded once, with the time stamps of where it stands."""
    second = write_clip(path.with_suffix(".second.mp4"), RATE, RATE)
    with av.open(str(second)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        base = packets[0].time_base
        kept = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in packets]
        for begin in range(0, seconds * round(1 / base), round(1 / base)):
            for content, pts, dts, is_key in kept:
                packet = av.Packet(content)
                packet.stream, packet.time_base, packet.is_keyframe = stream, base, is_key
                packet.pts, packet.dts = begin + pts, begin + dts
                out.mux(packet)
    return path


def imported(folder: Path, clip: Path) -> tuple[int, dict, list]:
    """Peak memory in MiB of importing a clip in a process of its own, what it told, and the tasks."""
    server = LabelStudioStandIn()
    environment = os.environ | {
        "LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": TOKEN, "X2SAM_STATE_DIR": str(folder / "state"),
        "X2SAM_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    try:
        words = [str(clip), "--project", "1", "--json", str(folder / "out.json")]
        done = subprocess.run([sys.executable, "-c", IMPORT, *words], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (entry,) = json.loads((folder / "out.json").read_text())["videos"]
        return int(done.stdout), entry, server.tasks()
    finally:
        server.close()


def test_an_hour_is_imported_like_a_minute(tmp_path):
    memory = {}
    for name, seconds in (("minute", 60), ("hour", 3600)):
        (tmp_path / name).mkdir()
        clip = write_long(tmp_path / f"{name}.mp4", seconds)
        memory[name], entry, tasks = imported(tmp_path / name, clip)
        assert entry["frames"] == entry["pages"] == seconds * RATE
        assert [len(task["data"]["frames"]) for task in tasks] == [48] * (seconds * RATE // 48)
    print("peak memory in MiB:", memory)
    one_frame = HEIGHT * WIDTH * 3 / 2**20
    assert memory["hour"] - memory["minute"] < 0.05 * 3600 * RATE * one_frame, "far less than its pictures take"
    assert memory["hour"] < 1.5 * memory["minute"]
    state = tmp_path / "hour" / "state"
    assert sum(file.stat().st_size for file in state.iterdir()) < 2**20
    assert not (tmp_path / "hour" / "cache").exists(), "no picture is made before somebody looks"

    frames = VideoFrames(VideoLibrary(state), tmp_path / "frames", 10**7)
    for task in (tasks[-1], tasks[len(tasks) // 2], tasks[0]):
        for page in (47, 0):
            video_id, frame, _ = split_address(task["data"]["frames"][page])
            assert frame == task["data"]["start_frame"] + page
            assert number_in(frames.read(video_id, frame)) == frame % RATE
    assert len(list((tmp_path / "frames").iterdir())) == 6
