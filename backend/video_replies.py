"""Sentences for the annotator about a video: frames are counted from 1, as the editor's timeline does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import shorten

from backend.replies import page_ranges
from backend.track_replies import Carriage

_LEAST_SURE = 3
_LONGEST = 80
NO_RECTANGLES = (
    "Objects on a Video tag are answered as rectangles over time: give it a <Labels> and a <VideoRectangle>, as "
    "label_config/video_boxes.xml has. For masks, import the video as pages (python -m backend video import)."
)
NOTHING_TO_FOLLOW = (
    "There is nothing to track: draw a rectangle on a frame where the object is seen well, wait until Label Studio has "
    "saved that (5 seconds), then type “track” again. Or describe what to track."
)
RECTANGLES_KEPT = (
    "There is nothing to do: the rectangles were tracked before and nothing has changed since. Set one right on a "
    "frame, wait until Label Studio has saved that (5 seconds), then type “track” again."
)
LOCKED = "Locked: all keyframes of these rectangles stay as they are; what lies between them is made to fit."
NOTHING_TO_LOCK = "There is nothing to lock: no rectangle is saved yet. Label Studio saves within 5 seconds."
HIDE_IT = (
    "To say that an object is out of sight, hide its rectangle from that frame on in the editor: nothing is drawn "
    "where you hid it. Then type “track” again."
)
LOOKED_AT_SOME = "There was no time to look at more frames; type it again to look further."


def rectangles_looked_at(count: int, of: int) -> str:
    """What to tell where time was up before all rectangles were looked at."""
    return f"There was time to look at {count} of {of} rectangles; type “track” again to go on from there."


def about_frames(objects: Sequence[Carriage], done: int, total: int, finished: bool, problem: str | None = None) -> str:
    """The answer to ``track``: frames, where objects were not seen, and the frames that are least sure; the pages of
    ``objects`` are Label Studio's frames less one."""
    names = shorten(", ".join(dict.fromkeys(one.label for one in objects)), _LONGEST)
    whole = "1 frame" if total == 1 else f"{total} frames"
    if finished and problem is None:
        parts = [f"{names}: tracked {whole}."]
    else:
        parts = [f"{names}: tracked {done} of {whole}" + ("." if problem else "; type track to go on.")]
    parts += [problem] if problem else []
    for one in objects:
        if one.unseen:
            whose = f"{shorten(one.label, _LONGEST)}: not" if len(objects) > 1 else "Not"
            parts.append(f"{whose} seen on {frame_ranges(one.unseen)}.")
    lowest = sorted(score for one in objects for score in one.scores)[:_LEAST_SURE]
    if lowest:
        unsure = (f"frame {frame + 1} ({100 * min(max(score, 0.0), 1.0):.0f} %)" for score, frame in lowest)
        parts.append(f"Least sure: {', '.join(unsure)}.")
    return " ".join(parts)


def ends_early(missing: float) -> str:
    """What to tell where the last seconds of a video are not there; empty where they are."""
    return f"The file ends early: its last {missing:.1f} s can't be read." if missing else ""


def frame_ranges(frames: Iterable[int]) -> str:
    """``frame 4``, or ``frames 1-3, 7 and 9-12``, from numbers that are counted from 0."""
    return page_ranges(frames).replace("page", "frame", 1)
