"""Which frames of a video become the pages of which task. Pure.

Frames are picked on a grid of times over the whole video, so that a part that is imported later lies on the same grid.
Picked frames are counted from 0: that is the number that a task's ``start_frame`` is in. Without ``fps`` every frame is
picked and the number is the frame's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.errors import SettingsError
from backend.video_library import Video
from x2sam.data.video_index import frames_at_rate

PAGES = 48
MOST_PAGES = 300


@dataclass(frozen=True)
class Clip:
    """The pages of one task: ``frames[i]`` is the video's frame on page ``i``; ``start`` counts picked frames."""

    start: int
    frames: tuple[int, ...]


def pick_frames(times: Sequence[float], fps: float | None = None) -> np.ndarray:
    """The frames shown at 0, 1/fps, 2/fps ... seconds, each once: int64, ascending; all of them without ``fps``.

    times: seconds of each frame from the first, ascending
    """
    return np.arange(len(times)) if fps is None else np.unique(frames_at_rate(times, fps))


def parse_range(written: str | None) -> slice:
    """``A:B`` of the command line, either end left out if wanted: frames A to B - 1.

    :raises SettingsError: it is something else, or has no frames in it.
    """
    if written is None:
        return slice(0, None)
    first, colon, last = written.partition(":")
    ends = [end.strip() for end in (first, last)]
    if not colon or not all(end == "" or (end.isascii() and end.isdecimal()) for end in ends):
        raise SettingsError(f"The range '{written}' is not like 100:200; A:B means frames A to B - 1, counted from 0.")
    start, stop = int(ends[0] or 0), int(ends[1]) if ends[1] else None
    if stop is not None and stop <= start:
        raise SettingsError(f"The range '{written}' has no frames in it.")
    return slice(start, stop)


def plan_clips(picked: np.ndarray, pages: int, part: slice) -> list[Clip]:
    """Tasks of at most ``pages`` pages for the picked frames that lie in a part of the video."""
    stop = part.stop if part.stop is not None else np.inf
    first, last = np.searchsorted(picked, (part.start, stop))
    return [
        Clip(int(at), tuple(int(frame) for frame in picked[at : min(at + pages, last)]))
        for at in range(first, last, pages)
    ]


def task_data(key: str, video: Video, clip: Clip, fps: float | None, addresses: Sequence[str]) -> dict[str, Any]:
    """What a task holds: under ``key`` the pages for the Image tag, and where they come from."""
    return {
        key: list(addresses),
        "video_id": video.id,
        "video_name": video.name,
        "video_fps": _rate(video, fps),
        "start_frame": clip.start,
        "source_frames": _span(clip),
    }


OWN_KEYS = ("video_id", "video_name", "video_fps", "start_frame", "source_frames")


def identity(video: Video, clip: Clip, fps: float | None) -> tuple[Any, ...]:
    """What tells the tasks of one video apart: two with the same are the same clip."""
    return (_rate(video, fps), clip.start, _span(clip))


def identity_of(data: Mapping[str, Any]) -> tuple[Any, ...]:
    """The same of a task that is there, from its data."""
    return (data.get("video_fps"), data.get("start_frame"), data.get("source_frames"))


def overlapping_tasks(known: Iterable[tuple[Any, ...]], wanted: Mapping[tuple[Any, ...], Clip]) -> int:
    """How many tasks, by :func:`identity_of`, show some of the frames of wanted clips at the same rate, but are none of
    them: they were cut with other pages per task, or of another range."""
    rates = {rate for rate, *_ in wanted}
    frames = {frame for clip in wanted.values() for frame in clip.frames}
    others = [one for one in known if one not in wanted and one[0] in rates]
    return sum(any(frame in frames for frame in _shown(span)) for *_, span in others)


def _shown(span: Any) -> range:
    """The frames from the first to the last of a task; none for what is no span."""
    ends = str(span).split("-")
    if len(ends) != 2 or not all(end.isascii() and end.isdecimal() and len(end) < 10 for end in ends):
        return range(0)
    return range(int(ends[0]), int(ends[1]) + 1)


def _rate(video: Video, fps: float | None) -> float:
    return round(min(fps or video.fps, video.fps), 6)


def _span(clip: Clip) -> str:
    return f"{clip.frames[0]}-{clip.frames[-1]}"


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Parts of at most ``size``."""
    return (items[at : at + size] for at in range(0, len(items), size))
